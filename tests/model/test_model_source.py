"""What a model is called, and that no two different models ever pass for one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import model_zoo as zoo
import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from swarm.errors import UsageError
from swarm.model import fingerprint
from swarm.model.source import ModelSource


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
    assert fingerprint.hash_config(config) == fingerprint.hash_config({**other, **noise})
    assert fingerprint.hash_config(config) != fingerprint.hash_config({**config, "ids": [2, 1]})


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
    memory[str(file)][2] = "remembered"
    own_cache.write_text(json.dumps(memory))
    assert fingerprint.file_hash(file) == "remembered"
    own_cache.write_text("spoilt")
    assert fingerprint.file_hash(file) == hashlib.sha256(b"one").hexdigest()


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
    with pytest.raises(UsageError, match="cannot be read"):
        ModelSource.resolve(str(tmp_path))


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


# --- a hub ------------------------------------------------------------------------------------------------------

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """The two calls of the hub's HTTP interface that a model needs: a file, and the list of files."""

    folder: Path
    served: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        if self.path.startswith("/api/models/owner/model"):
            return self.send(json.dumps(self.listing()).encode(), "application/json", with_body)
        file = self.folder / self.path.rsplit("/", 1)[-1]
        if not self.path.startswith("/owner/model/resolve/") or not file.is_file():
            self.send_response(404)
            missing = "EntryNotFound" if self.path.startswith("/owner/model/") else "RepoNotFound"
            self.send_header("X-Error-Code", missing)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if with_body:
            self.served.append(file.name)
        return self.send(file.read_bytes(), "application/octet-stream", with_body)

    def listing(self) -> dict[str, object]:
        files = []
        for file in self.folder.iterdir():
            entry: dict[str, object] = {"rfilename": file.name}
            if file.suffix == ".safetensors":
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": file.stat().st_size, "pointerSize": 130}
            files.append(entry)
        return {"id": "owner/model", "sha": COMMIT, "siblings": files}

    def send(self, body: bytes, kind: str, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Hub, dict[str, str]]]:
    """A hub on this machine with one sharded model, and the environment of a program that uses it."""
    zoo.save(zoo.build("llama"), tmp_path / "model", shard_size="1KB")
    handler = type("OneHub", (Hub,), {"folder": tmp_path / "model", "served": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    environment = dict(
        os.environ, HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HOME=str(tmp_path / "hf")
    )
    yield handler, environment  # type: ignore[misc]
    server.shutdown()
    thread.join()
    server.server_close()


HUB_PROGRAM = """
import sys
from swarm.errors import UsageError
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.span import Span
source = ModelSource.resolve("owner/model")
print(source.fingerprint())
print(load_stage(source, Span(2, 3)).num_bytes)
for name in ("owner/other", "bad name/model"):
    try:
        ModelSource.resolve(name)
    except UsageError as error:
        print(error)
"""


def test_hub_model_has_the_folders_fingerprint_and_only_the_spans_shards_are_fetched(
    hub: tuple[Hub, dict[str, str]], tmp_path: Path
) -> None:
    handler, environment = hub
    local = ModelSource.resolve(str(tmp_path / "model"))
    done = subprocess.run(
        [sys.executable, "-c", HUB_PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert printed[0] == local.fingerprint()
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())["weight_map"]
    wanted = {file for tensor, file in index.items() if ".layers.2." in tensor}
    assert {name for name in handler.served if name.endswith(".safetensors")} == wanted
    assert ["owner/other" in printed[2], "bad name/model" in printed[3]] == [True, True]
