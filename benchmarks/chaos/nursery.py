"""Our programs, forked from a process that has imported them: a node that was killed is back in a second or two.

Everything else is as if it had been started anew: a process, a session and a network of its own, nothing open that was
not given to it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_IMPORTED = ("specswarm.cli", "peer.node", "swarm.bootstrap", "transformers.models.llama.modeling_llama")

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["__main__", *_IMPORTED])


class Forked:
    """A running `python -m specswarm`: as much of subprocess.Popen as `specswarm.processes.Program` asks for."""

    def __init__(self, argv: Sequence[str], *, stderr: IO[str], namespace: str = "", **_: Any) -> None:
        """On the lab's host of that namespace, or here; what it prints is read from `stdout`, the rest goes to the
        file."""
        reading, writing = _forks.Pipe(duplex=False)
        arguments = list(argv[argv.index("specswarm") + 1 :])
        self._process = _forks.Process(target=_run, args=(namespace, arguments, writing, stderr.name))
        self._process.start()
        writing.close()
        self.stdout = os.fdopen(os.dup(reading.fileno()))
        reading.close()

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("specswarm", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """If it still runs."""
        if self._process.is_alive():
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def _run(namespace: str, arguments: list[str], output: Connection, log: str) -> None:
    """In the new process: move to the host, take its output, and be the program."""
    os.setsid()
    if namespace:
        _enter(namespace)
    os.dup2(output.fileno(), sys.stdout.fileno())
    output.close()
    with Path(log).open("a") as errors:
        os.dup2(errors.fileno(), sys.stderr.fileno())
    from specswarm.cli import main

    main(arguments)


def _enter(namespace: str) -> None:
    """Have this process's network be that of a namespace. Raises OSError."""
    with Path("/run/netns", namespace).open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
