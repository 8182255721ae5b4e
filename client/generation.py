"""One generation: draft, verify, commit, yield, until the text ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from client import metrics
from client.audit import Suspect
from client.chain import Chain
from client.drafting import Drafter
from swarm.span import Span
from swarm.wire import Verdict


class Draft:
    """A drafter on the torch thread, as the event loop sees it."""

    def __init__(self, drafter: Drafter, thread: Executor) -> None:
        self._drafter = drafter
        self._thread = thread

    async def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that may follow `tokens`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._drafter.propose, tokens, count)

    @contextlib.asynccontextmanager
    async def thinking_ahead(self, tokens: Sequence[int], count: int) -> AsyncIterator[None]:
        """Meanwhile, token by token, let the drafter work out what it would say after `tokens`, in case all stand."""
        task = asyncio.create_task(self._think_ahead(tokens, count))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _think_ahead(self, tokens: Sequence[int], count: int) -> None:
        if self._drafter.thinks_ahead and count > 1:
            for steps in range(1, count + 1):
                await self.propose(tokens, steps)


@dataclass
class Context:
    """The text so far and where it may end."""

    tokens: list[int]
    """Prompt, then all committed tokens."""
    prompt_tokens: int
    max_new_tokens: int
    max_positions: int
    """The model's context: the text, drafts included, never grows beyond it."""
    eos_token_ids: frozenset[int]
    ended: bool = False

    @property
    def new_tokens(self) -> list[int]:
        """What was generated."""
        return self.tokens[self.prompt_tokens :]

    @property
    def room(self) -> int:
        """Tokens that may still be committed."""
        limit = min(self.prompt_tokens + self.max_new_tokens, self.max_positions)
        return 0 if self.ended else max(limit - len(self.tokens), 0)

    def commit(self, tokens: Sequence[int]) -> list[int]:
        """Append a verdict's tokens up to the end of the text; those that were."""
        taken = list(tokens[: self.room])
        for i, token in enumerate(taken):
            if token in self.eos_token_ids:
                taken = taken[: i + 1]
                self.ended = True
                break
        self.tokens += taken
        return taken


@dataclass
class Statistics:
    """What a generation cost; times in seconds."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    draft_seconds: float = 0.0
    """Before rounds were sent; of the first one, opening the chain as well, if that took longer."""
    trip_seconds: list[float] = field(default_factory=list)
    """Of each round, from sending it to its verdict; opening the chain may be hidden behind the first drafts."""
    compute_seconds: list[float] = field(default_factory=list)
    """Of each round, what its stages computed, added up."""

    def count(self, drafts: Sequence[int], verdict: Verdict, draft_seconds: float, trip_seconds: float) -> None:
        """Take note of a round."""
        self.rounds += 1
        self.drafted += len(drafts)
        self.accepted += len(verdict.tokens) - 1
        self.draft_seconds += draft_seconds
        self.trip_seconds.append(trip_seconds)
        self.compute_seconds.append(sum(verdict.compute))
        metrics.TOKENS.inc(len(verdict.tokens))
        metrics.DRAFTED.inc(len(drafts))
        metrics.ACCEPTED.inc(len(verdict.tokens) - 1)
        metrics.TRIP_SECONDS.observe(trip_seconds)


@dataclass(frozen=True)
class Result:
    """A finished generation."""

    text: str
    token_ids: list[int]
    """The new tokens."""
    prompt_tokens: int
    seed: int
    rounds: int
    drafted: int
    accepted: int
    seconds: float
    first_token_seconds: float
    tokens_per_second: float
    reroutes: int
    """How often peers of the chain were replaced, ..."""
    stall_seconds: float
    """... and how much longer the trips in question took than the others."""
    audits: int
    """How often the text was judged again by other peers, ..."""
    audits_skipped: int
    """... how often that was due and not possible, ..."""
    suspects: list[Suspect]
    """... and the peers of the chain that were found wrong, or of the others that judged it."""
    chain: list[tuple[str, Span]]
    """Peer id and layers of each hop of the last chain."""
    bytes_sent: int
    bytes_received: int
    draft_seconds: float
    trip_seconds: list[float]
    compute_seconds: list[float]


async def generate(
    context: Context, draft: Draft, chain: Chain, window: int, statistics: Statistics
) -> AsyncGenerator[list[int], None]:
    """Yield the committed tokens of round after round. Raises ChainLost or PeerError when nobody can go on."""
    while context.room:
        started = time.perf_counter()
        drafts = await _draft(context, draft, chain, min(window, context.room - 1))
        drafted = time.perf_counter()
        async with draft.thinking_ahead([*context.tokens, *drafts], window + 1):
            verdict = await chain.verify(context.tokens, drafts)
        statistics.count(drafts, verdict, drafted - started, time.perf_counter() - drafted)
        yield context.commit(verdict.tokens)


async def _draft(context: Context, draft: Draft, chain: Chain, count: int) -> list[int]:
    """Drafts of the next round, while the chain prefills whatever it lacks of the text."""
    if count <= 0:
        return []
    prefill = asyncio.create_task(chain.prefill(context.tokens))
    try:
        drafts = await draft.propose(context.tokens, count)
        await prefill
    finally:
        prefill.cancel()
        await asyncio.wait([prefill])
    return drafts
