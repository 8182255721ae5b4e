"""A swarm on the lab: bootstrap node, peers and client, each on a host of its own."""

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
from specswarm.processes import Program

READY_SECONDS = 180.0
BOOTSTRAP = 0  # the host; peers follow, then the client


class Client:
    """The worker process, and the jobs it does."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def generate(self, prompt: str | Sequence[int], **options: Any) -> dict[str, Any]:
        """One generation's result, as a dictionary."""
        return self._exchange({"prompt": prompt, **options})

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
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the worker was started without pipes")
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the benchmark's client ended; its standard error has the cause")
        return dict(json.loads(line))


def start_client(popen: Any = subprocess.Popen) -> Client:
    """A worker, started by `popen`."""
    argv = [sys.executable, "-m", "benchmarks.worker"]
    return Client(popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))


@contextlib.contextmanager
def deployed(lab: Lab, model: str, spans: Sequence[str], folder: Path) -> Iterator[tuple[list[str], Client]]:
    """Bring up a bootstrap node, a peer for each span and a client; yields initial peers and the client."""

    def program(host: int, *arguments: str) -> Program:
        address = lab.address(host)
        listen = ["--host-maddr", f"/ip4/{address}/udp/31330/quic-v1", "--host-maddr", f"/ip4/{address}/tcp/31330"]
        identity = ["--identity", str(folder / f"{host}.key")]
        return Program([*arguments, *identity, *listen], folder / f"{host}.log", partial(lab.popen, host))

    programs: list[Program] = []
    client: Client | None = None
    try:
        programs.append(program(BOOTSTRAP, "bootstrap"))
        initial_peers = list(programs[0].next(READY_SECONDS)["maddrs"])
        reach = [part for maddr in initial_peers for part in ("--initial-peer", maddr)]
        for host, span in enumerate(spans, start=1):
            programs.append(program(host, "join", model, "--layers", span, "--threads", "1", *reach))
        for peer in programs[1:]:
            peer.next(READY_SECONDS)
        client = start_client(partial(lab.popen, len(spans) + 1))
        yield initial_peers, client
    finally:
        if client is not None:
            client.close()
        for peer in programs:
            peer.process.terminate()
        for peer in programs:
            peer.stop()
