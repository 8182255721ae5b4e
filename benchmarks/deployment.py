"""A swarm on the lab: bootstrap node on host 0, then the peers, then the client, each on a host of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.lab import Lab
from specswarm.processes import Place, running_swarm


class Client:
    """The worker process, and the jobs it does."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def generate(self, prompt: str | Sequence[int], **options: Any) -> dict[str, Any]:
        """One generation's result, as a dictionary."""
        return self._exchange({"prompt": prompt, **options})

    def watch(self, prompt: str | Sequence[int], **options: Any) -> Iterator[dict[str, Any]]:
        """The same, with a line for each event before the result, or before an `error`."""
        self._write({"prompt": prompt, "watch": True, **options})
        while True:
            line = self._read()
            yield line
            if "event" not in line:
                return

    def await_peers(self, count: int) -> None:
        """Wait until the client reaches so many peers."""
        self._exchange({"await_peers": count})

    def connect(self, **options: Any) -> None:
        """Join the swarm; `options` are those of SwarmModel.connect."""
        self._exchange(options)

    def close(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(30)
        if self._process.stdout:
            self._process.stdout.close()

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to a message; what is logged meanwhile is passed over."""
        self._write(message)
        while True:
            line = self._read()
            if line.get("event") != "log":
                return line

    def _write(self, message: dict[str, Any]) -> None:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the worker was started without pipes")
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError("the benchmark's client ended; its standard error has the cause")
        return dict(json.loads(line))


def start_client(popen: Any = subprocess.Popen, *options: str) -> Client:
    """A worker with these options, started by `popen`."""
    argv = [sys.executable, "-m", "benchmarks.worker", *options]
    return Client(popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))


@contextlib.contextmanager
def deployed(lab: Lab, model: str, spans: Sequence[str], folder: Path) -> Iterator[tuple[list[str], Client]]:
    """Bring up a bootstrap node, a peer for each span and a client; yields initial peers and the client."""

    def place(host: int) -> Place:
        address = lab.address(host)
        return (f"/ip4/{address}/udp/31330/quic-v1", f"/ip4/{address}/tcp/31330"), partial(lab.popen, host)

    with running_swarm(model, spans, folder, options=["--threads", "1"], place=place) as (initial_peers, _):
        client = start_client(partial(lab.popen, len(spans) + 1))
        try:
            yield initial_peers, client
        finally:
            client.close()
