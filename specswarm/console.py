"""The command's edge to the system: standard output and standard error, errors as one line, logs that do not shout.

Here errors of the operating system, which may come from anywhere, become a sentence; what nobody foresaw is a bug, and
said to be one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, NoReturn, TextIO, TypeVar

import uvloop

from swarm.errors import SpecswarmError, UsageError
from swarm.foreign import printable
from swarm.lifetime import Signals, Stopped, heeded, obeying_signals
from swarm.tasks import report
from swarm.user_files import read_all

T = TypeVar("T")

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


class OutputFailed(SpecswarmError):
    """Standard output takes nothing any more."""


class _Output(io.FileIO):
    """Standard output, whose errors are told from those of other files."""

    def write(self, data: Any, /) -> int:
        """Raises OutputFailed."""
        try:
            return super().write(data)
        except OSError as error:
            raise OutputFailed(f"standard output: {error.strerror}") from None


class _Log(io.FileIO):
    """Standard error: that nobody can read it ends nothing."""

    def write(self, data: Any, /) -> int:
        """Whatever cannot be written is lost."""
        with contextlib.suppress(OSError):
            super().write(data)
        return len(data)


def print_json(**fields: Any) -> None:
    """One object on one line of standard output, at once."""
    print(json.dumps(fields, ensure_ascii=False), flush=True)


def read_text() -> str:
    """All of standard input. Raises UsageError if there is none, or it is not UTF-8."""
    if sys.stdin is None:
        raise UsageError("the prompt is empty: there is no standard input; give one with -p")
    try:
        return read_all(sys.stdin.buffer, "standard input").decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 (byte {error.start}): convert it first") from None
    except OSError as error:
        raise UsageError(f"standard input: {error.strerror}") from None


def as_text(argument: str) -> str:
    """An argument of the command; one in UTF-8 is that, also where the system's settings name ASCII."""
    try:
        return (
            os.fsencode(argument).decode() if any("\udc80" <= char <= "\udcff" for char in argument) else argument
        )
    except UnicodeError:
        return argument


def say(text: str) -> None:
    """A few lines for a person, on standard error; names in them may be anything."""
    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr, flush=True)


def fail(error: SpecswarmError) -> NoReturn:
    """One line that says what to do; exit code 2 where the command was wrong, else 1."""
    say(f"specswarm: {error}")
    sys.exit(2 if isinstance(error, UsageError) else 1)


def run(program: Callable[[Signals], Coroutine[Any, Any, T]]) -> T:
    """Run a program to its end, or until a signal ends it, and with it the process."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(obeying_signals(program))
        except Stopped as stopped:
            # not by sys.exit: that would wait for threads, and one of them may be loading a model
            with contextlib.suppress(OutputFailed, OSError):
                sys.stdout.flush()
            os._exit(stopped.code)


@contextlib.contextmanager
def edge() -> Iterator[None]:
    """Where a command meets the system: whatever it raises ends as one line and an exit code."""
    _prepare_streams()
    with _signals_end_it():
        try:
            try:
                yield
            finally:
                sys.stdout.flush()
        except OutputFailed as error:
            _give_up_output()
            fail(error)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except BaseExceptionGroup as group:
            _fail_by(_first(group))
        except Exception as error:
            _fail_by(error)


def let_threads_sleep() -> None:
    """Let torch's threads that wait for each other leave their cores to others, unless the user wants it otherwise.

    Before torch is imported, which reads this once: libgomp the one variable, the OpenMP of LLVM and Intel the other.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", KMP_BLOCKTIME="0")


def quiet_libraries() -> None:
    """Keep libraries off the screen; our own log goes to standard error, line by line."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("specswarm")
    log.handlers[:] = [handler]
    log.propagate = False
    level = os.environ.get("SPECSWARM_LOGLEVEL") or "INFO"
    try:
        log.setLevel(level)
    except ValueError:
        raise UsageError(f"SPECSWARM_LOGLEVEL={level} is no level: DEBUG, INFO, WARNING or ERROR") from None


class _Printable(logging.Formatter):
    """Escapes what a message quotes; a traceback below it is left as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = printable(record.message)
        return super().formatMessage(record)


def _fail_by(error: BaseException) -> NoReturn:
    """End as fits this error."""
    match error:
        case SpecswarmError():
            fail(error)
        case OSError():
            what = error.strerror or str(error) or type(error).__name__
            fail(SpecswarmError(f"{os.fsdecode(error.filename)}: {what}" if _is_path(error.filename) else what))
        case MemoryError():
            fail(SpecswarmError("out of memory"))
        case Exception():
            report("it ended", error)
            text = (str(error) or type(error).__name__).partition("\n")[0]
            fail(SpecswarmError(f"a bug of this program ended it: {text}; its log above says where"))
    raise error


def _is_path(name: object) -> bool:
    return isinstance(name, str | bytes | os.PathLike)


def _prepare_streams() -> None:
    """Have standard output tell its own errors, and take any text; where a stream is closed, no file gets its place."""
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):  # to write to 1 is an error
        try:
            os.fstat(descriptor)
        except OSError as error:
            if error.errno == errno.EBADF:
                os.dup2(os.open(os.devnull, mode), descriptor)
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _over(_Output(1, "wb", closefd=False), sys.stdout)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _over(_Log(2, "wb", closefd=False), sys.stderr)


def _over(raw: io.FileIO, before: TextIO | None) -> io.TextIOWrapper:
    """A text stream like the one before, but of a terminal that cannot show a character none fails for it."""
    encoding, errors = (before.encoding, before.errors) if before is not None else ("utf-8", None)
    lossless = "backslashreplace" if errors in (None, "strict") else errors
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, lossless, line_buffering=raw.name == 2 or raw.isatty()
    )


def _give_up_output() -> None:
    """What is still in its buffer would fail once more when Python ends."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextlib.contextmanager
def _signals_end_it() -> Iterator[None]:
    """While no event loop runs that heeds them, signals end the process at once, by the system's own way: in the middle
    of an import, Python would come to them late, and might swallow an exception."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = {number: signal.signal(number, signal.SIG_DFL) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def clean_up_on_signals() -> None:
    """From now on, signals raise SystemExit: for a command that has something to clean up."""
    for number in heeded():
        signal.signal(number, _exit)


def _exit(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a person should know of: a known one, if there is any."""
    known = group.subgroup((SpecswarmError, OSError))
    error = (known or group).exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
