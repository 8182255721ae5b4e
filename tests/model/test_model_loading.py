"""Loading reads a span's tensors and no others, and says in one line what is wrong with a folder."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import model_zoo as zoo
import pytest
import torch
from models import save_llama
from safetensors.torch import load_file, save_file
from torch import nn

from swarm.drafting.model import DraftModel
from swarm.errors import ModelUnsupported, UsageError
from swarm.model.files import INDEX
from swarm.model.loading import load_stage
from swarm.model.selfcheck import check_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Slice, Stage
from swarm.span import Span


def run_whole(stage: Stage, ids: torch.Tensor) -> torch.Tensor:
    return stage.forward([Slice(stage.new_cache(), 0, ids, num_logits=len(ids))])[0]


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
    for file in zoo.shards_without(source, *words):
        (tmp_path / file).unlink()
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


def test_weights_that_are_no_numbers_are_told_from_sums_that_overflow(tmp_path: Path) -> None:
    zoo.save(zoo.build("llama"), tmp_path, shard_size="1GB")
    for value, words in (
        (math.nan, r"layers\.1\.mlp\.up_proj\.weight has values that are no numbers"),
        (3e38, "overflows"),
    ):

        def change(tensors: dict[str, torch.Tensor], value: float = value) -> None:
            tensors[f"{PROJECTION}.weight"][0] = value

        source = edit(tmp_path, change)
        load_stage(source, Span(2, 5))
        with pytest.raises(ModelUnsupported, match=words):
            load_stage(source, Span(0, 2))


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path)
    zoo.build("llama", zoo.BASE | {"intermediate_size": 64}).config.save_pretrained(tmp_path)
    with pytest.raises(ModelUnsupported, match="do not fit"):
        load_stage(ModelSource.resolve(source.name), Span(0, 1))


FP8, INT8, UINT8 = torch.float8_e4m3fn, torch.int8, torch.uint8
PROJECTION = "model.layers.1.mlp.up_proj"


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> ModelSource:
    """Change the tensors of a model with one file."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return ModelSource.resolve(str(folder))


def scaled(dtype: torch.dtype, largest: float) -> Callable[[dict[str, torch.Tensor]], None]:
    """A projection in 8 bits, with a scale for each row."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        weight = tensors[f"{PROJECTION}.weight"]
        scale = weight.abs().amax(1, keepdim=True) / largest
        tensors[f"{PROJECTION}.weight"] = (weight / scale).to(dtype)
        tensors[f"{PROJECTION}.weight_scale"] = scale

    return change


def beside(*names: str, instead: bool = False) -> Callable[[dict[str, torch.Tensor]], None]:
    """More tensors beside the projection's weight, or instead of it."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        if instead:
            del tensors[f"{PROJECTION}.weight"]
        tensors.update({f"model.layers.1.{name}": torch.ones(4) for name in names})

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(scaled(FP8, 448), r"up_proj\.weight as F8_E4M3", id="fp8"),
        pytest.param(scaled(INT8, 127), r"up_proj\.weight as I8", id="int8"),
        pytest.param(beside("mlp.up_proj.weight_scale"), r"up_proj\.weight_scale, .* quantized", id="scale alone"),
        pytest.param(beside("mlp.up_proj.weight_scale_inv"), "weight_scale_inv, .* quantized", id="deepseek"),
        pytest.param(beside("self_attn.k_scale"), "k_scale, .* quantized", id="cache scale"),
        pytest.param(beside("mlp.up_proj.qweight", instead=True), "qweight, .* quantized", id="gptq"),
        pytest.param(beside("mlp.up_proj.weight_packed", instead=True), "packed, .* quantized", id="compressed"),
        pytest.param(beside("mlp.up_proj_blocks", instead=True), "_blocks, .* quantized", id="mxfp4"),
        pytest.param(beside("mlp.up_proj.W_q", instead=True), "W_q, .* quantized", id="hqq"),
        pytest.param(
            beside("mlp.up_proj.weight.quant_state.bitsandbytes__nf4"), "bitsandbytes__nf4, .* quantized", id="nf4"
        ),
        pytest.param(beside("mlp.up_proj.weight:qdata", instead=True), "qdata, .* quantized", id="torchao"),
        pytest.param(beside("mlp.up_proj.bias"), r"up_proj\.bias, .* different models", id="bias"),
        pytest.param(beside("mlp.up_proj.lora_A.weight"), r"lora_A\.weight, .* different models", id="adapter"),
    ],
)
def test_what_lies_on_disk_for_a_span_is_used_or_refused_by_name(
    change: Callable[[dict[str, torch.Tensor]], None], named: str, tmp_path: Path
) -> None:
    zoo.save(zoo.build("llama"), tmp_path, shard_size="1GB")
    source = edit(tmp_path, change)
    with pytest.raises(ModelUnsupported, match=named):
        load_stage(source, Span(0, 2))
    load_stage(source, Span(2, 5))  # not these layers


def test_expert_in_eight_bits_is_refused_by_name(tmp_path: Path) -> None:
    zoo.save(zoo.build("mixtral"), tmp_path, shard_size="1GB")
    name = next(n for n in load_file(tmp_path / "model.safetensors") if ".layers.1." in n and ".experts.2." in n)
    source = edit(tmp_path, lambda tensors: tensors.update({name: tensors[name].to(FP8)}))
    with pytest.raises(ModelUnsupported, match=f"{name} as F8_E4M3"):
        load_stage(source, Span(0, 2))
    scales = {f"{name}_scale_inv": torch.ones(1)}
    source = edit(tmp_path, lambda tensors: tensors.update({name: tensors[name].float(), **scales}))
    with pytest.raises(ModelUnsupported, match=f"{name}_scale_inv, .* quantized"):
        load_stage(source, Span(0, 2))
    load_stage(source, Span(2, 5))


def test_parameter_that_is_on_disk_under_two_names_is_refused(tmp_path: Path) -> None:
    zoo.save(zoo.build("llama"), tmp_path, shard_size="1GB")
    source = edit(tmp_path, lambda tensors: tensors.update({"norm.weight": torch.ones(32)}))  # as of the base model
    with pytest.raises(
        ModelUnsupported, match=r"(model\.)?norm\.weight, which is (model\.)?norm\.weight once more"
    ):
        load_stage(source, Span(4, 5))


def test_tensors_around_the_layers_are_refused_by_the_peers_that_hold_them(tmp_path: Path) -> None:
    zoo.save(zoo.build("llama"), tmp_path, shard_size="1GB")
    source = edit(tmp_path, lambda tensors: tensors.update({"lm_head.weight_scale": torch.ones(1)}))
    load_stage(source, Span(0, 4))
    with pytest.raises(ModelUnsupported, match=r"lm_head\.weight_scale"):
        load_stage(source, Span(4, 5))


def test_tensors_that_are_known_to_be_without_effect_are_left_out(tmp_path: Path) -> None:
    zoo.save(zoo.build("llama"), tmp_path, shard_size="1GB")
    before = run_whole(load_stage(ModelSource.resolve(str(tmp_path)), Span(0, 5)), zoo.random_ids(6, seed=0))
    idle = (
        "model.layers.1.self_attn.rotary_emb.inv_freq",
        "model.layers.5.mlp.up_proj.weight",
        "vision_tower.scale",
    )
    source = edit(tmp_path, lambda tensors: tensors.update({name: torch.ones(4) for name in idle}))
    assert torch.equal(run_whole(load_stage(source, Span(0, 5)), zoo.random_ids(6, seed=0)), before)


def test_draft_in_eight_bits_is_refused_by_name(tmp_path: Path) -> None:
    save_llama(tmp_path)
    source = edit(tmp_path, scaled(FP8, 448))
    with pytest.raises(ModelUnsupported, match=r"up_proj\.weight as F8_E4M3"):
        DraftModel.load(str(tmp_path), source.tokenizer())


@pytest.mark.parametrize(
    "settings",
    [
        {"quantization_config": {"quant_method": "fp8"}},
        {"compression_config": {"format": "int-quantized"}},
        {"quantization": {"bits": 4, "group_size": 64}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "quantization_config": {"bits": 4}}},
    ],
)
def test_configuration_that_states_a_quantization_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | settings))
    with pytest.raises(ModelUnsupported, match=r"config\.json says by \w+ .* already quantized"):
        load_stage(ModelSource.resolve(source.name), Span(0, 1))


def test_quantization_that_a_file_beside_the_weights_states_is_refused(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path)
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": null}}')
    load_stage(source, Span(0, 1))
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    with pytest.raises(ModelUnsupported, match=r"hf_quant_config\.json"):
        load_stage(source, Span(0, 1))


def test_index_that_names_the_wrong_shard_is_refused_with_the_shards_name(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path, shard_size="1KB")
    where = dict(source.weight_map or {})
    where["lm_head.weight"] = where["model.norm.weight"]
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": where}))
    with pytest.raises(UsageError, match=r"model-\d+-of-\d+\.safetensors lacks lm_head\.weight"):
        load_stage(ModelSource.resolve(source.name), Span(4, 5))


def test_tensor_in_two_shards_is_refused_with_the_shards_names(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path, shard_size="1KB")
    where = source.weight_map or {}
    file = tmp_path / where["model.norm.weight"]
    save_file(
        {**load_file(file), "lm_head.weight": load_file(tmp_path / where["lm_head.weight"])["lm_head.weight"]}, file
    )
    with pytest.raises(
        UsageError, match=f"{file.name} holds lm_head.weight, and so does {where['lm_head.weight']}"
    ):
        load_stage(source, Span(4, 5))


def test_scale_that_the_index_does_not_mention_is_refused(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path, shard_size="1KB")
    where = source.weight_map or {}
    file = tmp_path / where["lm_head.weight"]
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight_scale": tensors["lm_head.weight"][0].clone()}, file)
    with pytest.raises(ModelUnsupported, match=rf"{file.name} holds lm_head\.weight_scale"):
        load_stage(source, Span(4, 5))


@pytest.mark.parametrize("length", [0, -1])
def test_shard_that_is_not_whole_is_refused_by_name(length: int, tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path)
    file = tmp_path / source.weight_files[0]
    file.write_bytes(file.read_bytes()[:length])
    for use in (partial(load_stage, source, Span(0, 5)), source.fingerprint):
        with pytest.raises(UsageError, match=f"{file.name} is no intact safetensors file: fetch it again"):
            use()


def test_folder_cloned_by_git_serves_the_span_whose_shards_were_pulled(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path, shard_size="1KB")
    whole = source.fingerprint()
    for file in zoo.shards_without(source, ".layers.2."):
        digest = hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
        (tmp_path / file).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 5\n")
    assert source.own_fingerprint() == whole
    load_stage(source, Span(2, 3))
    with pytest.raises(UsageError, match=r"safetensors is no intact .* `git lfs pull` it"):
        load_stage(source, Span(2, 4))


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
import json, re, sys
from swarm.model.files import INDEX
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.span import Span
stage = load_stage(ModelSource.resolve(sys.argv[1]), Span(3, 5))
# not ru_maxrss: a process that is started takes over its parent's
[kib] = re.findall(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())
print(json.dumps([stage.num_bytes, int(kib) * 1024]))
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
