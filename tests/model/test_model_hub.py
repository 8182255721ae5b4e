"""A model of the hub, from the hub or from its cache: the same files, the same fingerprint, and no long waits."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import model_zoo as zoo
import pytest
from huggingface_hub import constants
from models import save_tokenizer
from safetensors.torch import load_file, save_file

from specswarm.processes import LOOPBACK, Program, running_swarm
from swarm.drafting.model import DraftModel
from swarm.errors import UsageError
from swarm.model import hub as hub_files
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.span import Span

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """The two calls of the hub's HTTP interface that a model needs: a file, and the list of files."""

    folder: Path
    served: list[str]
    asked: list[str]
    large: int
    """Files from so many bytes on are stored by their hash."""
    fails: bool
    """With a 503 and a time to wait, whatever is asked."""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        self.asked.append(self.path)
        if self.fails:
            self.send_response(503)
            self.send_header("Retry-After", "60")
            self.send_header("Content-Length", "0")
            return self.end_headers()
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
            if file.stat().st_size >= self.large:
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
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    """A sharded model in a folder, with a tokenizer; what is remembered of hashes stays within the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "memory"))
    source = zoo.save(zoo.build("llama"), tmp_path / "model", shard_size="1KB")
    save_tokenizer(tmp_path / "model")
    return source


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of owner/model in a hub's cache of the test's own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    return tmp_path / "hf" / "hub" / "models--owner--model"


@pytest.fixture
def hub(model: ModelSource, tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on this machine with that model, for this process."""
    del storage
    attributes = {"folder": tmp_path / "model", "served": [], "asked": [], "large": 200, "fails": False}
    handler = type("OneHub", (Hub,), attributes)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    use_hub(monkeypatch, server.server_port)
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def use_hub(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Have this process, and those that it starts, take the hub to be there."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")


def keep(storage: Path, folder: Path, *, references: tuple[str, ...] = ("main", "v1", "refs/pr/1")) -> None:
    """Lay a folder's files into the hub's cache, as its client does."""
    snapshot, blobs = storage / "snapshots" / COMMIT, storage / "blobs"
    for path in (snapshot, blobs):
        path.mkdir(parents=True)
    for reference in references:
        (storage / "refs" / reference).parent.mkdir(parents=True, exist_ok=True)
        (storage / "refs" / reference).write_text(COMMIT)
    for file in folder.iterdir():
        kind = hashlib.sha256 if file.suffix == ".safetensors" else hashlib.sha1
        name = kind(file.read_bytes()).hexdigest()
        shutil.copy(file, blobs / name)
        (snapshot / file.name).symlink_to(f"../../blobs/{name}")


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
    hub: type[Hub], model: ModelSource, tmp_path: Path
) -> None:
    environment = dict(os.environ, HF_HOME=str(tmp_path / "hf"))
    done = subprocess.run(
        [sys.executable, "-c", HUB_PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert printed[0] == model.fingerprint()
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())["weight_map"]
    wanted = {file for tensor, file in index.items() if ".layers.2." in tensor}
    assert {name for name in hub.served if name.endswith(".safetensors")} == wanted
    assert ["owner/other" in printed[2], "bad name/model" in printed[3]] == [True, True]


def test_small_weights_that_the_hub_states_no_hash_of_are_fetched_and_hashed(
    hub: type[Hub], model: ModelSource
) -> None:
    hub.large = 1 << 30
    assert ModelSource.resolve("owner/model").own_fingerprint() == model.fingerprint()


def test_whole_file_on_the_hub_counts_and_the_index_beside_it_does_not(
    hub: type[Hub], model: ModelSource, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    tensors = {name: t for file in model.weight_files for name, t in load_file(folder / file).items()}
    save_file(tensors, folder / "model.safetensors")
    source = ModelSource.resolve("owner/model")
    assert source.fingerprint() == ModelSource.resolve(str(folder)).fingerprint() != model.fingerprint()
    load_stage(source, Span(0, 1))
    assert [name for name in hub.served if "safetensors" in name] == ["model.safetensors"]


@pytest.mark.parametrize("revision", [None, "main", "v1", "refs/pr/1", COMMIT, COMMIT[:7]])
def test_model_in_the_cache_serves_offline_at_every_name_of_its_revision(
    revision: str | None, model: ModelSource, tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(storage, tmp_path / "model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    source = ModelSource.resolve("owner/model", revision)
    assert (source.label, source.files.commit) == ("owner/model", COMMIT)
    found = source.own_fingerprint()
    assert not (tmp_path / "memory").exists()  # the cache says the hashes
    assert found == model.fingerprint()


def test_model_in_the_cache_is_read_and_drafts_offline(
    model: ModelSource, tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(storage, tmp_path / "model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    source = ModelSource.resolve("owner/model")
    assert source.eos_token_ids == model.eos_token_ids
    assert load_stage(source, Span(0, 2)).num_bytes == load_stage(model, Span(0, 2)).num_bytes
    DraftModel.load("owner/model", source.tokenizer())


def test_commands_take_a_model_and_its_draft_from_the_cache_offline(tmp_path: Path) -> None:
    """With the embedded pair as models of the hub, and a penalty in the target's generation_config.json."""
    pair = {name: Path(ModelSource.resolve(name).files.pretrained) for name in ("embedded", "embedded-draft")}
    target = Path(shutil.copytree(pair["embedded"], tmp_path / "target"))
    defaults = json.loads((target / "generation_config.json").read_text())
    (target / "generation_config.json").write_text(json.dumps(defaults | {"repetition_penalty": 1.3}))
    for name, folder in (("target", target), ("draft", pair["embedded-draft"])):
        keep(tmp_path / "hf" / "hub" / f"models--owner--{name}", folder)
    offline = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    popen = partial(subprocess.Popen, env=os.environ | offline)
    options = ["--threads", "1", "--revision", "main"]
    with running_swarm(
        "owner/target", ["0:8"], tmp_path, options=options, place=lambda _: (LOOPBACK, popen), ready_seconds=90
    ) as (initial_peers, _):
        arguments = ["generate", "owner/target", "--revision", "v1", "--draft", "owner/draft", "-p", "def f(x):"]
        arguments += ["--max-new-tokens", "6", "--initial-peer", initial_peers[0]]
        program = Program(arguments, tmp_path / "log", popen)
        printed = program.next(90)
        assert program.finish(90) == 0
    assert printed["token_ids"] == [270, 362, 309, 14, 70, 878]
    assert printed["accepted"] > 0


def test_what_was_used_online_serves_offline_by_the_same_name(
    hub: type[Hub], model: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_stage(ModelSource.resolve("owner/model", "main"), Span(0, 5))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    source = ModelSource.resolve("owner/model", "main")
    assert source.own_fingerprint() == model.fingerprint()
    load_stage(source, Span(0, 5))
    assert not hub.asked


def test_blobs_that_are_shared_between_models_still_say_their_hash(
    model: ModelSource, tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(storage, tmp_path / "model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for number, blob in enumerate(sorted((storage / "blobs").iterdir())):
        shared = tmp_path / "hf" / "blobs" / f"{number:064x}"  # by another hash
        shared.parent.mkdir(exist_ok=True)
        blob.rename(shared)
        blob.symlink_to(shared)
    assert ModelSource.resolve("owner/model").own_fingerprint() == model.fingerprint()


def test_cache_of_copies_instead_of_links_is_hashed(
    model: ModelSource, tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tmp_path / "model", storage / "snapshots" / COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert ModelSource.resolve("owner/model", COMMIT).own_fingerprint() == model.fingerprint()


def test_shard_that_the_cache_lacks_is_named_offline(
    model: ModelSource, tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(storage, tmp_path / "model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (storage / "snapshots" / COMMIT / model.weight_files[3]).unlink()
    source = ModelSource.resolve("owner/model")
    assert source.fingerprint() is None  # a client asks the swarm
    with pytest.raises(UsageError, match=rf"owner/model has no {model.weight_files[3]} in the hub's cache"):
        source.own_fingerprint()


@pytest.mark.parametrize("revision", ["v2", "../../refs/main", "d" * 40, "dddd", "c"])
def test_revision_that_the_cache_does_not_know_is_named_offline(
    revision: str, model: ModelSource, tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(storage, tmp_path / "model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=f"none at '{revision}' in the hub's cache, and HF_HUB_OFFLINE") as error:
        ModelSource.resolve("owner/model", revision)
    assert "\n" not in str(error.value)


@pytest.fixture(params=["silent", "refusing", "failing"])
def deaf_hub(
    request: pytest.FixtureRequest, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Hub] | None]:
    """A hub that takes connections and says nothing, one that takes none, and one that is overloaded."""
    monkeypatch.setattr(hub_files, "_ANSWER_SECONDS", 0.3)
    if request.param == "failing":
        hub.fails = True
        yield hub
        return
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listening.listen()
        use_hub(monkeypatch, listening.getsockname()[1])
        yield None


def test_hub_that_does_not_answer_is_asked_once_and_its_cache_serves(
    deaf_hub: type[Hub] | None,
    model: ModelSource,
    tmp_path: Path,
    storage: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    keep(storage, tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        source = ModelSource.resolve("owner/model")
        assert source.own_fingerprint() == model.fingerprint()
        assert source.eos_token_ids == model.eos_token_ids
        source.tokenizer()
        load_stage(source, Span(0, 5))
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        f"owner/model is taken from the hub's cache, commit {COMMIT[:7]}: the hub is out of reach"
    ]
    assert deaf_hub is None or len(deaf_hub.asked) == 1


def test_hub_that_does_not_answer_and_an_empty_cache_are_one_line(
    deaf_hub: type[Hub] | None, storage: Path, caplog: pytest.LogCaptureFixture
) -> None:
    del storage
    with caplog.at_level(logging.WARNING), pytest.raises(UsageError, match="the hub is out of reach") as error:
        ModelSource.resolve("owner/model")
    assert "\n" not in str(error.value)
    assert not caplog.records
    assert deaf_hub is None or len(deaf_hub.asked) == 1
