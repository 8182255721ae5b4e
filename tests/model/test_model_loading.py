"""Loading reads a span's tensors and no others, and says in one line what is wrong with a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import model_zoo as zoo
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from swarm.errors import ModelUnsupported, UsageError
from swarm.model.loading import load_stage
from swarm.model.selfcheck import check_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Slice, Stage
from swarm.span import Span


def run_whole(stage: Stage, ids: torch.Tensor) -> torch.Tensor:
    return stage.forward([Slice(stage.new_cache(), 0, ids, num_logits=len(ids))])[0]


def keep_shards_of(folder: Path, words: tuple[str, ...]) -> None:
    """Delete every shard that holds no tensor with one of `words` in its name."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    kept = {file for name, file in index.items() if any(word in name for word in words)}
    for file in set(index.values()) - kept:
        (folder / file).unlink()


@pytest.mark.parametrize(
    ("family", "span", "words"),
    [
        ("llama", Span(1, 3), ("layers.1.", "layers.2.")),
        ("llama", Span(0, 1), ("layers.0.", "embed_tokens")),
        ("llama", Span(4, 5), ("layers.4.", "model.norm", "lm_head")),
        ("gemma2", Span(4, 5), ("layers.4.", "model.norm", "embed_tokens")),
        ("mixtral", Span(2, 3), ("layers.2.",)),
        ("gpt_neox", Span(2, 4), ("layers.2.", "layers.3.")),
    ],
)
def test_a_span_loads_with_the_shards_of_all_other_layers_gone(
    family: str, span: Span, words: tuple[str, ...], tmp_path: Path
) -> None:
    source = zoo.save(zoo.build(family), tmp_path, shard_size="1KB")  # a shard for every tensor
    whole = load_stage(source, Span(0, 5)).part(span)
    keep_shards_of(tmp_path, words)
    stage = load_stage(source, span)
    inputs = zoo.random_ids(6, seed=0) if stage.is_first else torch.randn(6, 32)
    assert torch.equal(run_whole(stage, inputs), run_whole(whole, inputs))
    with pytest.raises(UsageError, match="lacks model-000"):
        load_stage(source, Span(0, 5))


def test_a_part_computes_what_a_stage_of_that_span_does(tmp_path: Path) -> None:
    model = zoo.build("gemma2")
    source = zoo.save(model, tmp_path)
    stage = load_stage(source, Span(0, 5))
    ids = zoo.random_ids(20, seed=1)
    parts = [stage.part(Span(0, 2)), stage.part(Span(1, 4)).part(Span(2, 4)), stage.part(Span(4, 5))]
    (logits,) = zoo.Chain(parts).run((0, ids))
    assert (logits - zoo.whole_logits(model, ids)).abs().max() <= 1e-4
    assert [p.is_first for p in parts] == [True, False, False]
    assert [p.is_last for p in parts] == [False, False, True]
    assert all(p.num_bytes < stage.num_bytes for p in parts)
    with pytest.raises(UsageError, match="1:4"):
        stage.part(Span(1, 4)).part(Span(0, 2))


def test_logits_are_given_for_the_trailing_tokens_asked_for(tmp_path: Path) -> None:
    stage = load_stage(zoo.save(zoo.build("cohere2"), tmp_path), Span(0, 5))
    ids = zoo.random_ids(9, seed=1)
    every = run_whole(stage, ids)
    wanted = [3, 0, 1]
    got = stage.forward([Slice(stage.new_cache(), 0, ids, num_logits=count) for count in wanted])
    for logits, count in zip(got, wanted, strict=True):
        assert logits.shape == (count, zoo.VOCAB)
        assert logits.dtype == torch.float32
        assert torch.allclose(logits, every[9 - count :], atol=1e-5)
    (none,) = stage.forward([Slice(stage.new_cache(), 0, ids)])
    assert none.shape == (0, zoo.VOCAB)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_stages_stay_close_to_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    source = zoo.save(zoo.build("qwen3"), tmp_path)
    ids = zoo.random_ids(20, seed=1)
    exact = run_whole(load_stage(source, Span(0, 5)), ids)
    chain = zoo.Chain([load_stage(source, span, dtype=dtype) for span in (Span(0, 2), Span(2, 5))])
    assert chain.stages[0].forward([Slice(chain.stages[0].new_cache(), 0, ids)])[0].dtype == dtype
    (logits,) = chain.run((0, ids))
    assert (logits - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(("quantize", "error"), [("int8", 0.06), ("nf4", 0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_quantized_stages_are_smaller_and_stay_close(
    quantize: str, error: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    settings = zoo.BASE | {"hidden_size": 128, "intermediate_size": 256}
    source = zoo.save(zoo.build("llama", settings), tmp_path, shard_size="1MB")
    ids = zoo.random_ids(20, seed=1)
    full = load_stage(source, Span(1, 4), dtype=dtype)
    small = load_stage(source, Span(1, 4), dtype=dtype, quantize=quantize)  # type: ignore[arg-type]
    assert small.num_bytes < full.num_bytes * (0.6 if quantize == "int8" else 0.35)
    hidden = torch.randn(20, 128, generator=torch.Generator().manual_seed(0))
    exact, rough = run_whole(full, hidden).float(), run_whole(small, hidden).float()
    assert (rough - exact).norm() / exact.norm() < error
    assert len(ids) == len(rough)


def test_span_beyond_the_last_layer_is_a_usage_error(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path)
    with pytest.raises(UsageError, match="has 5 layers"):
        load_stage(source, Span(3, 6))


def test_folder_without_weights_is_a_usage_error(tmp_path: Path) -> None:
    zoo.build("llama").config.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no weights"):
        load_stage(ModelSource.resolve(str(tmp_path)), Span(0, 1))


def test_damaged_shard_is_a_usage_error(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path, shard_size="1GB")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UsageError, match="intact"):
        load_stage(source, Span(0, 1))


def test_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path, shard_size="1GB")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file)
    load_stage(source, Span(2, 5))
    with pytest.raises(ModelUnsupported, match=r"layers\.1\.mlp\.up_proj"):
        load_stage(source, Span(0, 2))


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path)
    zoo.build("llama", zoo.BASE | {"intermediate_size": 64}).config.save_pretrained(tmp_path)
    with pytest.raises(ModelUnsupported, match="do not fit"):
        load_stage(ModelSource.resolve(source.name), Span(0, 1))


def test_model_that_is_already_quantized_is_refused(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnsupported, match="already quantized"):
        load_stage(ModelSource.resolve(source.name), Span(0, 1))


class MixesTokens(nn.Module):
    """A feed-forward layer that lets every token see the mean of all, as a recurrent layer would."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(hidden)
        return out + 0.1 * out.mean(dim=1, keepdim=True)


def as_it_is(stage: Stage) -> Stage:
    """The same layers without the flat form, so that changes to the modules count."""
    return Stage(stage.model, stage.info, stage.span, stage.dtype)


def test_layer_that_lets_packed_sessions_see_each_other_is_refused(tmp_path: Path) -> None:
    stage = as_it_is(load_stage(zoo.save(zoo.build("llama"), tmp_path), Span(0, 5)))
    check_stage(stage, exact=True)
    layer = stage.model.model.layers[2]
    layer.mlp = MixesTokens(layer.mlp)
    with pytest.raises(ModelUnsupported, match="packed with"):
        check_stage(stage, exact=True)


def test_layer_whose_window_is_not_the_one_it_attends_by_is_refused(tmp_path: Path) -> None:
    stage = as_it_is(load_stage(zoo.save(zoo.build("mistral"), tmp_path), Span(1, 3)))
    stage.model.model.layers[2].self_attn.config.sliding_window = None
    check_stage(stage, exact=True)  # mask and attention agree: none
    attention = stage.model.model.layers[2].self_attn
    attention.config = type(attention.config)(**{**attention.config.to_dict(), "sliding_window": 5})
    attention.config._attn_implementation = "specswarm-recording"
    with pytest.raises(ModelUnsupported, match="layer 2"):
        check_stage(stage, exact=True)


MEASURE = """
import json, sys, resource
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.span import Span
stage = load_stage(ModelSource.resolve(sys.argv[1]), Span(3, 5))
print(json.dumps([stage.num_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def test_peer_with_two_layers_of_a_large_model_stays_within_its_span_and_a_constant(tmp_path: Path) -> None:
    """1.6 GB of float32, a shard per layer; the process that loads layers 3 and 4 is measured at its peak."""
    settings = zoo.BASE | {"num_hidden_layers": 8, "hidden_size": 2048, "intermediate_size": 5632}
    with torch.device("meta"):
        model = zoo.AutoModelForCausalLM.from_config(zoo.AutoConfig.for_model("llama", **settings))
    model.config.save_pretrained(tmp_path)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    pool = torch.randn(2048 * 5632) * 0.02
    where = {name: f"{name.split('.')[2] if '.layers.' in name else 'rest'}.safetensors" for name in shapes}
    for file in set(where.values()):
        tensors = {n: pool[: s.numel()].view(s).clone() for n, s in shapes.items() if where[n] == file}
        save_file(tensors, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) > 1.5e9
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()  # pytest keeps folders for a while
    span_bytes, peak_bytes = json.loads(done.stdout.splitlines()[-1])
    assert span_bytes == 2 * sum(s.numel() for n, s in shapes.items() if ".layers.3." in n) * 4
    assert peak_bytes < span_bytes + 0.8e9
