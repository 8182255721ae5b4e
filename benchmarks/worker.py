"""The benchmark's client: a process on a host of its own that generates what it is told on standard input.

One JSON object per line: a job {"prompt", ...options of a generation} in, its result out; {"connect": {...}} first. A
job with "watch" also brings a line for each verdict: the tokens so far, whether a draft was rejected, and the chain.
{"await_peers": n} is answered when the client reaches so many. With --log, what the client logs
comes as lines, too.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from typing import Any

from client import Result, SwarmModel
from swarm.errors import SpecswarmError


class _Told(logging.Handler):
    """Passes the client's log on."""

    def emit(self, record: logging.LogRecord) -> None:
        _print(event="log", text=record.getMessage())


def main() -> None:
    """Serve jobs until standard input ends."""
    if "--log" in sys.argv:
        logging.getLogger("specswarm").addHandler(_Told())
        logging.getLogger("specswarm").setLevel(logging.INFO)
    connection = json.loads(sys.stdin.readline())
    with SwarmModel.connect(**connection) as model:
        _print(event="ready")
        for line in sys.stdin:
            job = json.loads(line)
            if "await_peers" in job:
                while model.refresh() < job["await_peers"]:
                    pass
                _print(event="reached")
                continue
            try:
                watch, prompt = job.pop("watch", False), job.pop("prompt")
                result = _watched(model, prompt, job) if watch else model.generate(prompt, **job)
            except SpecswarmError as error:
                _print(error=str(error))
                continue
            _print(**asdict(result) | _chain(result))


def _watched(model: SwarmModel, prompt: str | list[int], options: dict[str, Any]) -> Result:
    stream = model.stream(prompt, **options)
    accepted = drafted = 0
    for _ in stream:
        now = stream.result
        rejected = now.drafted - drafted > now.accepted - accepted
        accepted, drafted = now.accepted, now.drafted
        _print(event="verdict", tokens=len(now.token_ids), rejected=rejected, **_chain(now))
    return stream.result


def _chain(result: Result) -> dict[str, Any]:
    return {"chain": [str(span) for _, span in result.chain], "peers": [peer for peer, _ in result.chain]}


def _print(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
