"""A swarm on the lab: bootstrap node on host 0, then the peers, then the client, each on a host of its own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.jsonlines import JsonProcess
from benchmarks.lab import Lab
from specswarm.processes import Place, running_swarm


class Client:
    """The worker process, and the jobs it does."""

    def __init__(self, process: JsonProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def generate(self, prompt: str | Sequence[int], **options: Any) -> dict[str, Any]:
        """One generation's result, as a dictionary."""
        return self._exchange({"prompt": prompt, **options})

    def generate_together(self, prompts: Sequence[str], **options: Any) -> tuple[int, float]:
        """A text for each prompt, all at once: new tokens in all, and the seconds until the last one."""
        done = self._exchange({"prompts": list(prompts), **options})
        return int(done["tokens"]), float(done["seconds"])

    def watch(self, prompt: str | Sequence[int], **options: Any) -> Iterator[dict[str, Any]]:
        """The same, with a line for each event before the result, or before an `error`."""
        self._process.write({"prompt": prompt, "watch": True, **options})
        while True:
            line = self._process.read()
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
        self._process.close()

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to a message; what is logged meanwhile is passed over."""
        self._process.write(message)
        while True:
            line = self._process.read()
            if line.get("event") != "log":
                return line


def start_client(popen: Any = subprocess.Popen, *options: str) -> Client:
    """A worker with these options, started by `popen`."""
    return Client(JsonProcess("benchmarks.worker", *options, popen=popen))


@contextlib.contextmanager
def deployed(
    lab: Lab,
    model: str,
    spans: Sequence[str],
    folder: Path,
    *,
    popen: Callable[..., Any] = Lab.popen,
    options: Sequence[str] = (),
) -> Iterator[tuple[list[str], Client]]:
    """Bring up a bootstrap node, a peer for each span and a client; yields initial peers and the client.

    `popen(lab, host, argv, ...)` starts the programs; peers get the further `options`.
    """

    def place(host: int) -> Place:
        address = lab.address(host)
        return (f"/ip4/{address}/udp/31330/quic-v1", f"/ip4/{address}/tcp/31330"), partial(popen, lab, host)

    with running_swarm(model, spans, folder, options=["--threads", "1", *options], place=place) as (
        initial_peers,
        _,
    ):
        client = start_client(partial(popen, lab, len(spans) + 1))
        try:
            yield initial_peers, client
        finally:
            client.close()
