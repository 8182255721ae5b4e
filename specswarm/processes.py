"""The project's own programs as processes: started, awaited until they serve, and ended by their id."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from swarm.errors import SpecswarmError
from swarm.lifetime import signals_wait

LOOPBACK = ("/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0")
STOP_SECONDS = 15.0

Popen = Callable[..., "subprocess.Popen[str]"]
Place = tuple[Sequence[str], Popen | None]
"""Addresses a node listens on, and what starts its process there, if that is not `spawn`."""

spawn: Popen = subprocess.Popen
"""What starts the process of a program."""


class ProgramFailed(SpecswarmError):
    """A program ended, or did not get ready in time; the text has the end of its standard error."""


class Program:
    """One running `specswarm` command with `--json`; its objects are read as they come.

    `ready` keeps the first one of a node that serves.
    """

    def __init__(self, arguments: Sequence[str], log: Path, popen: Popen | None = None) -> None:
        """Start it; its standard error goes to the file `log`. `popen` may start it elsewhere, on a lab's host say,
        in place of `spawn`."""
        self.arguments = list(arguments)
        self.ready: dict[str, Any] = {}
        self._log = log
        with log.open("w") as errors:
            self.process = (popen or spawn)(
                [sys.executable, "-m", "specswarm", *arguments, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def next(self, timeout: float) -> dict[str, Any]:
        """The next object it prints, within `timeout` seconds. Raises ProgramFailed."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise ProgramFailed(f"{self._name} printed nothing in {timeout:.0f} s: {self._end_of_log}") from None
        if line is None:
            raise ProgramFailed(f"{self._name} ended: {self._end_of_log}")
        return dict(json.loads(line))

    def stop(self) -> int:
        """End it by SIGTERM; its exit code."""
        self.process.terminate()
        return self.finish(STOP_SECONDS)

    def finish(self, timeout: float) -> int:
        """Wait for it to end, and kill it if it has not done so in `timeout` seconds; its exit code."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(STOP_SECONDS)  # what it has started may have its output still
        if self.process.stdout is not None and not self._reader.is_alive():
            self.process.stdout.close()
        return self.process.returncode

    @property
    def _name(self) -> str:
        return f"specswarm {' '.join(self.arguments[:2])}"

    @property
    def _end_of_log(self) -> str:
        lines = self._log.read_text().strip().splitlines()
        return lines[-1] if lines else "no word on standard error"

    def _read(self) -> None:
        if self.process.stdout is not None:
            for line in self.process.stdout:
                self._lines.put(line)
        self._lines.put(None)


def on_loopback(_: int) -> Place:
    """Every node on this machine's loopback interface, at ports of the system's choice."""
    return LOOPBACK, None


@contextlib.contextmanager
def running_swarm(
    model: str,
    spans: Sequence[str],
    folder: Path,
    *,
    options: Sequence[str] = (),
    shared: Sequence[str] = (),
    place: Callable[[int], Place] = on_loopback,
    ready_seconds: float = 180.0,
    one_by_one: bool = False,
) -> Iterator[tuple[list[str], list[Program]]]:
    """A bootstrap node (number 0) and a peer for each span `A:B` (from 1 on); yields initial peers and programs.

    Peers get the further `options`, all nodes the `shared` ones; identities and logs go to `folder`. `one_by_one`: each
    peer starts when the one before serves, and so measures its speed while no other one loads. All processes are gone
    at the end, whatever happens.
    """
    programs: list[Program] = []

    def start(*arguments: str) -> None:
        number = len(programs)
        maddrs, popen = place(number)
        listen = [part for maddr in maddrs for part in ("--host-maddr", maddr)]
        identity = ["--identity", str(folder / f"{number}.key")]
        with signals_wait():  # or one might come when a program is there already, and not yet in the list
            programs.append(Program([*arguments, *identity, *listen, *shared], folder / f"{number}.log", popen))

    try:
        start("bootstrap")
        programs[0].ready = programs[0].next(ready_seconds)
        initial_peers = list(programs[0].ready["maddrs"])
        reach = [part for maddr in initial_peers for part in ("--initial-peer", maddr)]
        for span in spans:
            start("join", model, "--layers", span, *reach, *options)
            if one_by_one:
                programs[-1].ready = programs[-1].next(ready_seconds)
        for program in programs[1:]:
            program.ready = program.ready or program.next(ready_seconds)
        yield initial_peers, programs
    finally:
        for program in reversed(programs):
            program.process.terminate()
        for program in reversed(programs):
            program.finish(STOP_SECONDS)
