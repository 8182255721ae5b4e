"""Every command where the system is not as it should be: one line and an exit code, or all goes on; never a trace."""

from __future__ import annotations

import multiprocessing
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from simulator.fit import LabRun
from specswarm import console
from specswarm.cli import main
from specswarm.processes import LOOPBACK, running_swarm
from swarm import daemon
from swarm.errors import SpecswarmError, UsageError
from swarm.identity import Identity
from swarm.model.source import ModelSource
from tests.test_simulator_fit import RUN, TEXTS, crowd

ROOT = Path(__file__).parents[1]
LISTEN = [part for maddr in LOOPBACK for part in ("--host-maddr", maddr)]
SECONDS = 60.0
SCENARIO = """
seconds = 60
[[peers]]
count = 2
layers = 4
[[clients]]
count = 1
text = 0.7
arrivals = { kind = "poisson", per_hour = 600, requests = 1 }
"""
_forks = multiprocessing.get_context("forkserver")


@dataclass
class Ran:
    """How a command ended, and what is in its two files."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """Its own on standard error, beside the log."""
        return [line for line in self.err.splitlines() if not re.match(r"\d\d:\d\d:\d\d |$", line)]


def as_usual() -> None:
    """Surroundings that are not changed."""


def ran(arguments: Sequence[object], folder: Path, prepare: Callable[[], object] = as_usual) -> Ran:
    """Run a command as a process of its own, after `prepare` has changed its surroundings; a node that serves is told
    to stop as soon as it does."""
    out, err = folder / "out", folder / "err"
    process = _forks.Process(target=_be, args=(list(map(str, arguments)), str(out), str(err), prepare))
    out.write_bytes(b"")
    process.start()
    if arguments[0] in ("bootstrap", "join"):
        _stop_when_ready(process, out)
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
    return Ran(process.exitcode or 0, out.read_bytes(), err.read_text(errors="replace"))


def _stop_when_ready(process: BaseProcess, out: Path) -> None:
    until = time.monotonic() + SECONDS
    while process.is_alive() and b"ready" not in out.read_bytes() and time.monotonic() < until:
        time.sleep(0.02)
    if process.is_alive():
        process.terminate()


def _be(arguments: list[str], out: str, err: str, prepare: Callable[[], object]) -> None:
    """In the new process: its standard streams as a shell would have opened them, then the command."""
    for descriptor, name in ((0, os.devnull), (1, out), (2, err)):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", closefd=False, errors="backslashreplace")
    prepare()
    main(arguments)


@pytest.fixture(scope="module")
def initial_peer(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("swarm")
    options = ["--threads", "1"]
    with running_swarm(str(target), ["0:4"], folder, options=options, ready_seconds=90) as (initial_peers, _):
        yield initial_peers[0]


@dataclass
class Commands:
    """All of them, with what they need, in one folder."""

    model: Path
    folder: Path
    initial_peer: str
    identity: list[object] = field(default_factory=list)

    def named(self, name: str) -> list[object]:
        """The command's arguments."""
        reach = ["--initial-peer", self.initial_peer]
        few = ["--max-new-tokens", "2"]
        (self.folder / "examples").write_text('{"prompt": "x", "answer": "y"}\n')
        (self.folder / "scenario.toml").write_text(SCENARIO)
        (self.folder / "lab-run.json").write_bytes(msgspec.json.encode(LabRun(RUN, (crowd(1e6),), TEXTS)))
        loss = ["--loss", "100", "--out", self.folder / "semantic.toml"]
        arguments: dict[str, list[object]] = {
            "help": ["--help"],
            "key": ["key", self.folder / "new.key"],
            "bootstrap": ["bootstrap", "--json", *self.identity, *LISTEN],
            "join": ["join", self.model, "--json", "--threads", "1", *self.identity, *reach, *LISTEN],
            "generate": ["generate", self.model, "-p", "x", *few, *reach],
            "calibrate": ["calibrate", self.model, "--draft", self.model, *few, *loss, *reach],
            "status": ["status", *reach],
            "simulate": ["simulate", self.folder / "scenario.toml", "--seeds", "1"],
            "simulate calibrate": ["simulate", "calibrate", self.folder / "lab-run.json"],
            "demo": ["demo"],
        }
        arguments["calibrate"] += ["--file", self.folder / "examples"]
        return arguments[name]


NAMES = ("help", "key", "bootstrap", "join", "generate", "calibrate", "status", "simulate", "simulate calibrate")


@pytest.fixture
def commands(target: Path, tmp_path: Path, initial_peer: str) -> Commands:
    return Commands(target, tmp_path, initial_peer, ["--identity", tmp_path / "node.key"])


def full() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def broken() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


def closed() -> None:
    os.close(1)
    sys.stdout = None  # type: ignore[assignment]  # as Python starts then


def all_closed() -> None:
    closed()
    os.close(0)
    os.close(2)
    sys.stdin = sys.stderr = None  # type: ignore[assignment]


def no_ears() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)


def home_nowhere() -> None:
    os.environ.pop("XDG_CACHE_HOME", None)
    os.environ |= {"HOME": "/proc/none", "TMPDIR": "/proc/none"}


def _nobody(_: int) -> NoReturn:
    raise KeyError("uid not found")


def no_home() -> None:
    """A user whom the system does not know, as in a container."""
    os.environ.pop("XDG_CACHE_HOME", None)
    os.environ.pop("HOME", None)
    pwd.getpwuid = _nobody


def odd_place() -> None:
    no_home()
    os.environ |= {"TMPDIR": "/proc/none"}
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="ascii", errors="strict", closefd=False)


WITHOUT_OUTPUT = {
    full: "No space left on device",
    broken: "Broken pipe",
    closed: "Bad file descriptor",
}


PRINTING = [(full, name) for name in (*NAMES, "demo") if name != "key"] + [
    (prepare, name) for prepare in (broken, closed) for name in ("help", "bootstrap", "generate", "simulate")
]


@pytest.mark.parametrize(("prepare", "name"), PRINTING)
def test_output_that_fails_is_one_line(prepare: Callable[[], None], name: str, commands: Commands) -> None:
    ended = ran(commands.named(name), commands.folder, prepare)
    assert ended.code == 1
    assert ended.lines[-1] == f"specswarm: standard output: {WITHOUT_OUTPUT[prepare]}"
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("name", ["key", "bootstrap", "generate"])
def test_streams_that_are_closed_are_no_error_unless_they_are_needed(name: str, commands: Commands) -> None:
    """And no file, no socket of ours gets their place, where somebody else's word would end up in it."""
    assert ran(commands.named(name), commands.folder, all_closed).code == (0 if name == "key" else 1)
    if name == "bootstrap":
        with Identity.hold(commands.folder / "node.key"):
            pass


@pytest.mark.parametrize("name", ["key", "join", "generate", "simulate"])
def test_a_log_that_nobody_can_read_ends_nothing(name: str, commands: Commands) -> None:
    ended = ran(commands.named(name), commands.folder, no_ears)
    assert ended.code == 0
    assert ended.out or name == "key"


@pytest.mark.parametrize("name", [*NAMES, "demo"])
def test_an_odd_place_is_a_place(name: str, target: Path, tmp_path: Path, initial_peer: str) -> None:
    """No home, no folder for what is temporary, names that are not UTF-8, a terminal that knows ASCII alone."""
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    folder.mkdir()
    identity: list[object] = ["--identity", folder / os.fsdecode(b"\xff.key")]
    there = Commands(target, folder, initial_peer, identity)
    ended = ran(there.named(name), tmp_path, odd_place)
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    assert ended.out.isascii()


@pytest.mark.parametrize("prepare", [home_nowhere, no_home])
@pytest.mark.parametrize("name", ["bootstrap", "join"])
def test_who_has_no_home_is_told_to_say_where_the_key_is(
    prepare: Callable[[], None], name: str, target: Path, tmp_path: Path, initial_peer: str
) -> None:
    ended = ran(Commands(target, tmp_path, initial_peer).named(name), tmp_path, prepare)
    assert ended.code == 2
    [line] = ended.lines
    assert re.match(r"specswarm: (identity file /proc/none.*--identity|identity: .*set HOME)$", line)


UNWRITABLE = {
    "key": lambda place: ["key", place],
    "bootstrap": lambda place: ["bootstrap", *LISTEN, "--identity", place],
    "join": lambda place: ["join", "embedded", *LISTEN, "--initial-peer", "x", "--identity", place],
    "generate": lambda place: ["generate", "embedded", "-p", "x", "--initial-peer", "x", "--identity", place],
    "config": lambda place: ["status", "--config", place],
    "journal": lambda place: ["generate", "embedded", "-p", "x", "--initial-peer", "x", "--resume", place],
    "swarm key": lambda place: ["status", "--initial-peer", "x", "--swarm-key", place],
    "examples": lambda place: ["calibrate", "embedded", "--initial-peer", "x", "--file", place],
    "scenario": lambda place: ["simulate", place],
    "lab run": lambda place: ["simulate", "calibrate", place],
    "model": lambda place: ["join", place, *LISTEN, "--initial-peer", "x"],
}


@pytest.mark.parametrize(
    "place", ["/proc/none", "/dev/null/below", "/dev/zero", "/" + "a" * 5000, "~nobody-here/x"]
)
@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_file_that_cannot_be_had_is_named(
    name: str, place: str, initial_peer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [initial_peer if argument == "x" else argument for argument in UNWRITABLE[name](place)]
    if name == "model":
        arguments += ["--identity", str(tmp_path / "key")]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("specswarm: ")]
    assert ended.value.code == 2
    assert place[:20] in line


@pytest.mark.parametrize("name", ["calibrate", "generate"])
def test_a_result_for_which_the_disk_has_no_room_is_one_line(name: str, commands: Commands) -> None:
    option = {"calibrate": ["--out"], "generate": ["--draft", commands.model, "--record"]}[name]
    ended = ran([*commands.named(name), *option, "/dev/full"], commands.folder)
    assert ended.code == 2
    assert ended.lines[-1].startswith("specswarm: /dev/full: No space left on device")
    assert "Traceback" not in ended.err


def test_a_model_whose_path_is_not_utf_8_is_refused_and_one_that_is_so_called_elsewhere_is_served(
    target: Path, tmp_path: Path
) -> None:
    """What reads tokenizers and weights takes paths in UTF-8 alone."""
    odd = tmp_path / os.fsdecode(b"\xff")
    odd.mkdir()
    (odd / "config.json").symlink_to(target / "config.json")
    with pytest.raises(UsageError, match="not UTF-8: rename it"):
        ModelSource.resolve(str(odd))
    (tmp_path / "model").symlink_to(odd)
    assert ModelSource.resolve(str(tmp_path / "model")).label == "\\udcff"


def test_a_disk_that_takes_no_key_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bootstrap", *LISTEN, "--identity", "/dev/full"])
    assert ended.value.code == 2
    assert "/dev/full: No space left on device; choose another with --identity" in capsys.readouterr().err


def test_a_place_that_takes_no_sockets_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(daemon.Daemon, "_UNIX_SOCKET_PREFIX", "/unix/dev/null/hivemind-")
    with pytest.raises(SystemExit) as ended:
        main(["bootstrap", *LISTEN, "--identity", str(tmp_path / "key")])
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("specswarm: the network daemon did not start: ")


def test_a_full_disk_leaves_no_half_of_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(descriptor: int, data: bytes) -> int:
        return right(descriptor, data[:10])

    right = os.write
    monkeypatch.setattr(os, "write", half)
    with pytest.raises(UsageError, match="No space left on device"), Identity.hold(tmp_path / "key"):
        pass
    monkeypatch.undo()
    with Identity.hold(tmp_path / "key"):
        pass


def test_a_prompt_that_is_no_text_is_the_users_error(target: Path, commands: Commands) -> None:
    odd = ran(["generate", target, "-p", os.fsdecode(b"\xff"), *commands.named("status")[1:]], commands.folder)
    assert (odd.code, odd.lines) == (
        2,
        ["specswarm: the prompt has half of a surrogate pair at character 0: it was no text in UTF-8"],
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "/there"), 1, "/there: No such file or directory"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (MemoryError(), 1, "out of memory"),
        (ExceptionGroup("g", [ValueError("x"), ExceptionGroup("h", [UsageError("wrong")])]), 2, "wrong"),
        (SpecswarmError("known"), 1, "known"),
        (ValueError("odd\nand more"), 1, "a bug of this program ended it: odd; its log above says where"),
    ],
)
def test_whatever_ends_a_command_is_one_line(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, console.edge():
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err.splitlines()[-1] == f"specswarm: {line}"


def test_ctrl_c_in_the_middle_of_an_import_leaves_no_trace() -> None:
    code = """
import os, runpy, signal, sys

class Interrupting:
    @staticmethod
    def find_spec(name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting)
runpy.run_module("specswarm", run_name="__main__")
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=ROOT, timeout=SECONDS, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize("how", ["> /dev/full", ">&-", "| true"])
def test_output_that_fails_from_the_start_of_python_on(how: str) -> None:
    """What a shell does before Python is there: a few real ones."""
    command = f"set -o pipefail; {sys.executable} -m specswarm --help {how}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode in ((0, 1) if how == "| true" else (1,))  # it may be read before that ends
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) <= 1


def test_signal_before_anything_has_begun_ends_it_without_a_trace(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "specswarm", "generate", "embedded", "--initial-peer", "x"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        wait_for_reading(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def wait_for_reading(process: subprocess.Popen[Any]) -> None:
    """Until it sleeps in a system call of reading a pipe: its prompt."""
    state = Path(f"/proc/{process.pid}/wchan")
    until = time.monotonic() + SECONDS
    while "pipe" not in state.read_text() and time.monotonic() < until:
        time.sleep(0.05)
