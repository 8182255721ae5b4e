"""The benchmark's client: a process on a host of its own that generates what it is told on standard input.

One JSON object per line: the options of AsyncSwarmModel.connect first, then jobs {"prompt", ...options of a
generation} in, their results out. A job with "watch" also brings lines on its way: the chain that is going to be taken,
then for each verdict the tokens so far, whether a draft was rejected, the seconds since the start, the chain and the
session's id. A job with "prompts" makes a text for each at once, and brings tokens and seconds. {"await_peers": n} is
answered when the client reaches so many. With --log, what the client logs comes as lines, too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import time
from dataclasses import asdict
from typing import Any

import uvloop

from benchmarks.jsonlines import say, standard_input
from client import AsyncSwarmModel, Result
from client.generation import Generation, round_tokens
from swarm.errors import SpecswarmError

_POLL_SECONDS = 0.25  # between looks at who has come; nodes answer only so many a minute


class _Told(logging.Handler):
    """Passes the client's log on."""

    def emit(self, record: logging.LogRecord) -> None:
        say(event="log", text=record.getMessage())


async def serve() -> None:
    """Do jobs until standard input ends."""
    orders = await standard_input()
    connection = json.loads(await orders.readline())
    async with AsyncSwarmModel.connect(**connection) as model:
        gc.freeze()  # as `generate` does
        say(event="ready")
        async for line in orders:
            job = json.loads(line)
            if "await_peers" in job:
                while await model.refresh() < job["await_peers"]:  # noqa: ASYNC110  # the DHT tells nobody of news
                    await asyncio.sleep(_POLL_SECONDS)
                say(event="reached")
                continue
            if "prompts" in job:
                say(**await _generate_together(model, **job))
                continue
            try:
                result = await _generate(model, **job)
            except SpecswarmError as error:
                say(error=str(error))
                continue
            say(**asdict(result) | _chain(result))


async def _generate(
    model: AsyncSwarmModel, prompt: str | list[int], *, watch: bool = False, **options: Any
) -> Result:
    if not watch:
        return await model.generate(prompt, **options)
    window = options.get("window", model.config.window)
    planned = await model.target.plan(tokens=round_tokens(window))
    say(event="chain", peers=[hop.contact.peer_id for hop in planned])
    generation = model.stream(prompt, **options)
    tokens = accepted = drafted = 0
    async for _ in generation:
        now = generation.result
        if len(now.token_ids) == tokens:  # the text's last bytes alone
            continue
        rejected = now.drafted - drafted > now.accepted - accepted
        tokens, accepted, drafted = len(now.token_ids), now.accepted, now.drafted
        say(
            event="verdict",
            tokens=tokens,
            rejected=rejected,
            seconds=now.seconds,
            session=_session(generation),
            **_chain(now),
        )
    return generation.result


async def _generate_together(model: AsyncSwarmModel, prompts: list[str], **options: Any) -> dict[str, float]:
    started = time.perf_counter()
    results = await asyncio.gather(*(model.generate(prompt, **options) for prompt in prompts))
    return {
        "tokens": sum(len(result.token_ids) for result in results),
        "seconds": time.perf_counter() - started,
    }


def _session(generation: Generation) -> str:
    """The id that only the client and its chain know, for who plays one that has found it out."""
    session = generation._chain._session
    return session._id.hex() if session else ""


def _chain(result: Result) -> dict[str, Any]:
    return {"chain": [str(span) for _, span in result.chain], "peers": [peer for peer, _ in result.chain]}


if __name__ == "__main__":
    if "--log" in sys.argv:
        logging.getLogger("specswarm").addHandler(_Told())
        logging.getLogger("specswarm").setLevel(logging.INFO)
    uvloop.run(serve())
