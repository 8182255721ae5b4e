"""What a model is called, and that no two different models ever pass for one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import model_zoo as zoo
import pytest
from models import save_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from swarm.errors import ModelUnsupported, UsageError
from swarm.model import fingerprint
from swarm.model.files import CONFIG, INDEX, read_sums
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.span import Span


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "specswarm" / "weights.json"


def test_info_is_known_from_the_configuration_alone(tmp_path: Path) -> None:
    zoo.build("llama").config.save_pretrained(tmp_path)
    source = ModelSource.resolve(str(tmp_path))
    info = source.info
    assert (info.num_layers, info.hidden_size, info.vocab_size, info.max_positions) == (5, 32, zoo.VOCAB, 256)
    assert info.family == "llama"
    assert source.fingerprint() is None


def test_client_without_weights_agrees_with_the_peer_on_the_configuration(tmp_path: Path) -> None:
    peer = zoo.save(zoo.build("llama"), tmp_path / "peer")
    (tmp_path / "client").mkdir()
    shutil.copy(tmp_path / "peer" / "config.json", tmp_path / "client")
    client = ModelSource.resolve(str(tmp_path / "client"))
    assert client.info == peer.info
    assert client.fingerprint() is None


def test_model_and_its_fine_tune_have_different_fingerprints(tmp_path: Path) -> None:
    model = zoo.build("llama")
    base = zoo.save(model, tmp_path / "base")
    weight = model.model.layers[3].mlp.up_proj.weight
    weight.data[0, 0] += 1e-3
    tuned = zoo.save(model, tmp_path / "tuned")
    assert base.info == tuned.info
    assert base.fingerprint() != tuned.fingerprint()


def test_same_files_have_the_same_fingerprint_wherever_they_lie(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    there = ModelSource.resolve(str(tmp_path / "there"))
    assert source.fingerprint() == there.fingerprint()
    assert len(source.fingerprint() or "") == 64


def test_volatile_settings_do_not_change_the_configuration_hash() -> None:
    config = {"model_type": "llama", "rope": {"theta": 1e4, "dtype": "x"}, "ids": [1, 2], "unset": None}
    other = {"ids": [1, 2], "rope": {"theta": 1e4}, "model_type": "llama", "torch_dtype": "bfloat16"}
    noise = {"transformers_version": "9", "_name_or_path": "/x", "dtype": "float32"}
    assert fingerprint.hash_config(config, {}) == fingerprint.hash_config({**other, **noise}, {})
    assert fingerprint.hash_config(config, {}) != fingerprint.hash_config({**config, "ids": [2, 1]}, {})


def test_a_setting_that_is_null_is_none_that_is_left_out_where_it_has_a_default(tmp_path: Path) -> None:
    zoo.save(zoo.build("llama"), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text()) | {"model_type": "mistral"}
    hashes = []
    for setting in ({}, {"sliding_window": None}, {"sliding_window": 4096}, {"quantization_config": None}):
        (tmp_path / CONFIG).write_text(json.dumps(config | setting))
        hashes.append(ModelSource.resolve(str(tmp_path)).info.config_hash)
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 3


def test_weights_changed_in_place_change_the_fingerprint(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path, shard_size="1GB")
    before = source.fingerprint()
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] += 1
    save_file(tensors, file)
    assert source.fingerprint() != before


def test_hash_of_an_unchanged_file_is_remembered(tmp_path: Path, own_cache: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert fingerprint.file_hash(file) == hashlib.sha256(b"one").hexdigest()
    memory = json.loads(own_cache.read_text())
    memory[str(file)][-1] = "remembered"
    own_cache.write_text(json.dumps(memory))
    assert fingerprint.file_hash(file) == "remembered"
    for spoilt in ("spoilt", "null", "[5]"):
        own_cache.write_text(spoilt)
        assert fingerprint.file_hash(file) == hashlib.sha256(b"one").hexdigest()


def test_file_of_the_same_size_and_time_is_hashed_anew(tmp_path: Path) -> None:
    file, other = tmp_path / "weights", tmp_path / "other"
    for path, content in ((file, b"one"), (other, b"two")):
        path.write_bytes(content)
        os.utime(path, (1, 1))  # as in a reproducible image
    fingerprint.file_hash(file)
    other.replace(file)
    assert fingerprint.file_hash(file) == hashlib.sha256(b"two").hexdigest()


def test_end_tokens_come_from_the_generation_configuration_first(tmp_path: Path) -> None:
    zoo.build("llama").config.save_pretrained(tmp_path)
    source = ModelSource.resolve(str(tmp_path))
    assert source.eos_token_ids == frozenset({2})
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    assert source.eos_token_ids == frozenset({5, 6})


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere", "a/b/c"])
def test_unknown_name_says_what_to_give(name: str) -> None:
    with pytest.raises(UsageError, match="give a folder, a hub id"):
        ModelSource.resolve(name)


def test_folder_that_holds_no_model_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config\.json"):
        ModelSource.resolve(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"')
    with pytest.raises(UsageError, match="is no JSON"):
        ModelSource.resolve(str(tmp_path))


def test_file_in_place_of_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.gguf").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"weights/model\.gguf is a file"):
        ModelSource.resolve("weights/model.gguf")  # no hub id


def test_tokenizer_of_the_folder_is_given(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path)
    words = Tokenizer(WordLevel({"hello": 0, "world": 1, "?": 2}, unk_token="?"))  # noqa: S106
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    assert source.tokenizer()("world hello")["input_ids"] == [1, 0]


def test_model_without_tokenizer_is_a_usage_error(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path)
    with pytest.raises(UsageError, match="tokenizer"):
        source.tokenizer()


# --- folders that are not as they should be ---------------------------------------------------------------------


def in_folders(folder: Path, factor: float) -> ModelSource:
    """A model in two files of one name in two folders; the weights of the first are `factor` times as large."""
    whole = folder / "whole"
    zoo.save(zoo.build("llama"), whole, shard_size="1GB")
    tensors = load_file(whole / "model.safetensors")
    shutil.copy(whole / "config.json", folder)
    where = {name: f"{'a' if '.layers.' in name else 'b'}/x.safetensors" for name in tensors}
    for file in set(where.values()):
        (folder / file).parent.mkdir()
        mine = {n: t * (factor if file[0] == "a" else 1) for n, t in tensors.items() if where[n] == file}
        save_file(mine, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    return ModelSource.resolve(str(folder))


def test_files_of_one_name_in_two_folders_both_count_in_the_fingerprint(tmp_path: Path) -> None:
    one, two = in_folders(tmp_path / "one", 1.0), in_folders(tmp_path / "two", 1.5)
    assert one.fingerprint() != two.fingerprint()
    assert one.weight_files == ("a/x.safetensors", "b/x.safetensors")
    load_stage(one, Span(0, 5))


def test_fingerprint_of_files_at_the_top_of_a_folder_stays_what_it_was(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path)
    digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.glob("*.safetensors")}
    assert len(digests) > 1
    assert source.fingerprint() == fingerprint.combine(source.info.config_hash, digests)


def test_folder_with_the_shards_of_one_span_serves_it_if_the_hashes_of_the_others_are_stated(
    tmp_path: Path,
) -> None:
    whole = zoo.save(zoo.build("llama"), tmp_path / "whole", shard_size="1KB")  # a shard for every tensor
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    part = tmp_path / "part"
    for file in zoo.shards_without(whole, ".layers.2."):
        (part / file).unlink()
    source = ModelSource.resolve(str(part))
    assert source.fingerprint() is None  # a client asks the swarm
    with pytest.raises(UsageError, match=r"model-00001-of-\d+\.safetensors: a peer needs .* SHA256SUMS"):
        source.own_fingerprint()
    names = sorted(path.name for path in (tmp_path / "whole").glob("*.safetensors"))
    sums = subprocess.run(["sha256sum", *names], cwd=tmp_path / "whole", capture_output=True, text=True, check=True)
    (part / "SHA256SUMS").write_text(sums.stdout)
    source = ModelSource.resolve(str(part))
    assert source.own_fingerprint() == whole.fingerprint()
    load_stage(source, Span(2, 3))
    with pytest.raises(UsageError, match=r"lacks model-\d+-of-\d+\.safetensors"):
        load_stage(source, Span(2, 4))


def test_shard_of_another_model_among_the_stated_hashes_is_refused_by_name(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path)
    (tmp_path / "SHA256SUMS").write_text("".join(f"{'0' * 64}  {name}\n" for name in source.weight_files))
    with pytest.raises(UsageError, match="model-00001-of"):
        source.fingerprint()


@pytest.mark.parametrize("line", ["{0}  a.safetensors", "{0} *./a.safetensors"])
def test_hashes_are_stated_in_small_letters_or_capitals(line: str, tmp_path: Path) -> None:
    digest = "0123456789abcdef" * 4
    for written in (digest, digest.upper()):
        (tmp_path / "sums").write_text(line.format(written) + "\n")
        assert read_sums(tmp_path / "sums") == {"a.safetensors": digest}


def test_stated_hashes_in_another_notation_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sums").write_text(f"SHA256 (a.safetensors) = {'0' * 64}\n")
    with pytest.raises(UsageError, match="no list as sha256sum makes it"):
        read_sums(tmp_path / "sums")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 0}, "by zero"),
        ({"intermediate_size": -1}, "negative dimension"),
        ({"hidden_act": "geluu"}, "knows no 'geluu' that llama is to have"),
        ({"pad_token_id": zoo.VOCAB}, "Padding_idx must be within num_embeddings"),
        ({"intermediate_size": 10**30}, "has no text decoder for llama"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000: a model has 1 to 10000"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"dtype": []}, "cannot build the model of"),
    ],
)
def test_configuration_that_makes_no_model_is_told_by_what_is_wrong(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    zoo.save(zoo.build("llama"), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | changes))
    with pytest.raises(ModelUnsupported, match=words):
        load_stage(ModelSource.resolve(str(tmp_path)), Span(0, 1))


def test_index_beside_a_whole_file_does_not_count(tmp_path: Path) -> None:
    whole = zoo.save(zoo.build("llama"), tmp_path, shard_size="1GB")
    (tmp_path / INDEX).write_text('{"weight_map": {"lm_head.weight": "gone.safetensors"}}')
    source = ModelSource.resolve(str(tmp_path))
    assert source.fingerprint() == whole.fingerprint()
    load_stage(source, Span(4, 5))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "no JSON object"),
        ("{}", "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": ["lm_head.weight"]}', "no weight_map"),
        ('{"weight_map": {"lm_head.weight": "../x.safetensors"}}', r"names '\.\./x\.safetensors'"),
        ('{"weight_map": {"lm_head.weight": "/x.safetensors"}}', "names '/x"),
        ('{"weight_map": {"lm_head.weight": "./x.safetensors"}}', r"names '\./x"),
        ('{"weight_map": {"lm_head.weight": "x.safetensors\\n0"}}', "names 'x"),
        ('{"weight_map": {"lm_head.weight": "x.bin"}}', r"names 'x\.bin'"),
        ('{"weight_map": {"lm_head.weight": 7}}', "names '7'"),
    ],
)
def test_index_that_is_none_is_refused_by_name(content: str, named: str, tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path)
    (tmp_path / INDEX).write_text(content)
    for use in (source.own_fingerprint, lambda: load_stage(source, Span(0, 1))):
        with pytest.raises(UsageError, match=f"index\\.json .*{named}") as error:
            use()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"config.json": b"", "model.safetensors": b""}, r"config\.json is no JSON"),
        ({"config.json": b"[1]"}, r"config\.json is no JSON object"),
        ({"config.json": b'{"model_type": "llama", "num_hidden_layers": "x"}'}, "num_hidden_layers"),
        ({"config.json": b'{"model_type": "siglip_vision_model"}'}, "no language model"),
        ({"config.json": b'{"model_type": "llama", "transformers_weights": "x.safetensors"}'}, "x.safetensors"),
        ({"config.json": b'{"model_type": "llama"}', "pytorch_model.bin": b""}, r"pytorch_model\.bin"),
        ({"config.json": b'{"model_type": "llama"}', "model.gguf": b""}, r"model\.gguf"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b""}, "adapter_config.json.*: merge"),
        (
            {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"", "adapter_config.json": b"{}"},
            "adapter_config.json.*: merge",
        ),
        ({}, r"no config\.json"),
        ({"config.json": b'{"model_type": "llama"}', "model.safetensors": None}, r"model\.safetensors is no file"),
        ({"config.json": None}, r"config\.json is no file"),
    ],
)
def test_folder_that_is_no_whole_model_is_refused_by_the_file(
    files: dict[str, bytes | None], named: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        if content is None:
            (tmp_path / name).symlink_to(name)  # leads nowhere but round
        else:
            (tmp_path / name).write_bytes(content)
    with pytest.raises((UsageError, ModelUnsupported), match=named) as error:
        source = ModelSource.resolve(str(tmp_path))
        assert source.info.num_layers
        source.own_fingerprint()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", ""),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "["),
    ],
)
def test_tokenizer_that_cannot_be_read_is_named(name: str, content: str, tmp_path: Path) -> None:
    source = zoo.save(zoo.build("llama"), tmp_path)
    save_tokenizer(tmp_path)
    source.tokenizer()
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=r"tokenizer\.json.*cannot be read") as error:
        source.tokenizer()
    assert "\n" not in str(error.value)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"needs tokenizer\.json"):
        source.tokenizer()
