"""Whatever a person gets wrong: one line that says what to do, and the right exit code."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from specswarm.cli import main
from specswarm.console import as_text, read_text
from specswarm.processes import LOOPBACK, running_swarm
from swarm.user_files import MAX_BYTES
from tests.models import save_llama

NOBODY = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWQhUesA5R5gKgJq4kNcHyK9C2KsYjoz8SBnp26gWzYcBD"
LISTEN = [part for maddr in LOOPBACK for part in ("--host-maddr", maddr)]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target's fine-tune: same configuration, other weights."""
    return save_llama(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="module")
def initial_peer(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A swarm in which the target's last layer is served by nobody."""
    folder = tmp_path_factory.mktemp("swarm")
    with running_swarm(str(target), ["0:3"], folder, ready_seconds=90) as (initial_peers, _):
        yield initial_peers[0]


@dataclass
class Result:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


def run(*arguments: object) -> Result:
    """Run the command as a shell would, in this process."""
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    return Result(code, stdout.getvalue(), stderr.getvalue())


def complaint(result: Result, code: int) -> str:
    """The one line on standard error, beside the peer's log."""
    assert result.exit_code == code, result
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if not re.match(r"\d\d:\d\d:\d\d |$", line)]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("specswarm: ")
    return lines[0]


def test_unreachable_bootstrap(target: Path, tmp_path: Path) -> None:
    for command in (
        ["generate", target, "-p", "x"],
        ["status"],
        ["join", target, "--identity", tmp_path / "key", *LISTEN],
    ):
        assert "no initial peer answers" in complaint(run(*command, "--initial-peer", NOBODY), 1)


@pytest.mark.parametrize(
    ("maddr", "words"),
    [
        ("nonsense", "is no multiaddr"),
        ("/ip4/127.0.0.1/tcp/4001", "lacks its end: write it as"),
        ("/ip4/1.2.3.4/tcp/1/p2p/garbage", "is no multiaddr"),
    ],
)
def test_initial_peer_that_is_no_address(maddr: str, words: str, target: Path) -> None:
    assert words in complaint(run("generate", target, "-p", "x", "--initial-peer", maddr), 2)


def test_no_initial_peer(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECSWARM_INITIAL_PEERS", raising=False)
    assert "initial_peers" in complaint(run("generate", target, "-p", "x"), 2)


def test_layers_that_nobody_serves_are_named(target: Path, initial_peer: str) -> None:
    result = run("generate", target, "-p", "x", "--initial-peer", initial_peer)
    assert "layers 3:4 of 4" in complaint(result, 1)


def test_a_window_is_a_number_or_the_name_of_who_chooses_it(target: Path, initial_peer: str) -> None:
    arguments = ["generate", target, "-p", "x", "--initial-peer", initial_peer, "--window"]
    assert "layers 3:4 of 4" in complaint(run(*arguments, "awc"), 1)
    assert "window: neither auto, awc nor a number from 0 to 64" in complaint(run(*arguments, "awk"), 2)


def test_unknown_model_folder(initial_peer: str, tmp_path: Path) -> None:
    for command in (["generate", "-p", "x"], ["join", "--identity", tmp_path / "key", *LISTEN]):
        line = complaint(run(*command, "./no/such/folder", "--initial-peer", initial_peer), 2)
        assert "./no/such/folder" in line


def test_a_fine_tune_is_another_model(other: Path, initial_peer: str) -> None:
    """Its weights are here, so its fingerprint is known, and nobody serves that."""
    line = complaint(run("generate", other, "-p", "x", "--initial-peer", initial_peer), 1)
    assert "nobody serves this model" in line


def test_wrong_fingerprint(target: Path, initial_peer: str) -> None:
    arguments = ["generate", target, "-p", "x", "--initial-peer", initial_peer, "--fingerprint", "0" * 64]
    assert "has fingerprint" in complaint(run(*arguments), 2)


def test_a_revision_of_what_has_none(target: Path, initial_peer: str) -> None:
    arguments = ["generate", target, "-p", "x", "--initial-peer", initial_peer, "--revision", "main"]
    assert "has no revision 'main': that is for models of the hub" in complaint(run(*arguments), 2)


def test_draft_with_another_tokenizer(target: Path, initial_peer: str) -> None:
    arguments = ["generate", target, "-p", "x", "--initial-peer", initial_peer, "--draft", "embedded-draft"]
    assert "another tokenizer" in complaint(run(*arguments), 2)


@pytest.mark.parametrize("prompt", ["", "x" * 3000, "x\udcff"], ids=["empty", "too long", "no UTF-8"])
def test_prompt_that_does_not_fit(prompt: str, target: Path, initial_peer: str) -> None:
    assert "the prompt" in complaint(run("generate", target, "-p", prompt, "--initial-peer", initial_peer), 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [(b"caf\xe9", "not UTF-8 (byte 3)"), (b"x" * (MAX_BYTES + 1), "File too large"), (None, "give one with -p")],
    ids=["Latin-1", "endless", "closed"],
)
def test_standard_input_that_is_no_prompt(
    given: bytes | None, words: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", given and io.TextIOWrapper(io.BytesIO(given)))
    assert words in complaint(run("generate", target, "--initial-peer", NOBODY), 2)


def test_standard_input_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\r\ntwo\r")))
    assert read_text() == "one\r\ntwo\r"


def test_an_argument_in_utf_8_is_text_whatever_the_system_takes_it_for() -> None:
    for given, text in (("h\udcc3\udca9", "hé"), ("hé", "hé"), ("\udcff", "\udcff"), ("é\ud800", "é\ud800")):
        assert as_text(given) == text


def test_an_option_that_is_no_number(target: Path, tmp_path: Path) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text("[generate]\nmax_new_tokens = true\n")
    line = complaint(run("generate", target, "-p", "x", "--initial-peer", NOBODY, "--config", file), 2)
    assert line.endswith("max_new_tokens: it cannot be True")


@pytest.mark.parametrize("layers", ["2:9", "3:3", "1-2", "a:b"])
def test_layers_out_of_range(layers: str, target: Path, initial_peer: str, tmp_path: Path) -> None:
    arguments = ["--layers", layers, "--initial-peer", initial_peer, "--identity", tmp_path / "key"]
    assert "layers" in complaint(run("join", target, *arguments, *LISTEN), 2)


@pytest.mark.parametrize("command", ["join", "generate"])
@pytest.mark.parametrize("option", ["--allow", "--deny"])
def test_list_with_a_misspelt_peer_id(command: str, option: str, target: Path) -> None:
    line = complaint(run(command, target, option, "12D3Kool", "--initial-peer", NOBODY), 2)
    assert "'12D3Kool' is no peer id" in line


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_port_in_use(kind: str, tmp_path: Path) -> None:
    with socket.socket(type=socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == "tcp":
            taken.listen()
        maddr = f"/ip4/127.0.0.1/{kind}/{taken.getsockname()[1]}" + ("/quic-v1" if kind == "udp" else "")
        line = complaint(run("bootstrap", "--host-maddr", maddr, "--identity", tmp_path / "key"), 2)
    assert "Address already in use" in line
    assert "--host-maddr" in line


def test_identity_file_that_cannot_be_used(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"no key")
    for path in (tmp_path, garbage, Path("/proc/no/key")):
        assert str(path) in complaint(run("bootstrap", "--identity", path, *LISTEN), 2)


def test_configuration_with_an_unknown_key(target: Path, tmp_path: Path) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text('initial_peers = ["x"]\n[client]\nwindows = 3\n')
    line = complaint(run("generate", target, "-p", "x", "--config", file), 2)
    assert "windows" in line
    assert str(file) in line


def test_initial_peers_come_from_environment_or_file(
    initial_peer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECSWARM_INITIAL_PEERS", initial_peer)
    assert json.loads(run("status", "--json").stdout)["models"]
    monkeypatch.setenv("SPECSWARM_INITIAL_PEERS", NOBODY)
    file = tmp_path / "swarm.toml"
    file.write_text(f'initial_peers = ["{initial_peer}"]\n')
    assert json.loads(run("status", "--json", "--config", file).stdout)["models"]


@pytest.mark.parametrize("how", [("--layers", "0:1"), ("--num-layers", "1"), ()])
def test_device_that_is_not_there(how: tuple[str, ...], target: Path, initial_peer: str, tmp_path: Path) -> None:
    arguments = [*how, "--device", "abacus", "--initial-peer", initial_peer, "--identity", tmp_path / "key"]
    assert "abacus" in complaint(run("join", target, *arguments, *LISTEN), 2)


def test_weights_in_eight_bits_are_refused_by_name(target: Path, initial_peer: str, tmp_path: Path) -> None:
    folder = tmp_path / "fp8"
    shutil.copytree(target, folder)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors |= {name: tensors[name].to(torch.float8_e4m3fn), f"{name}_scale": torch.ones(1)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    arguments = ["--layers", "0:2", "--identity", tmp_path / "key", "--initial-peer", initial_peer]
    line = complaint(run("join", folder, *arguments, *LISTEN), 1)
    assert f"model.safetensors holds {name} as F8_E4M3" in line
