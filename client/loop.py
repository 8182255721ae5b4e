"""The loop of one generation: draft, verify, commit, yield, until the text ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from client.chain import Chain
from client.result import FinishReason, Statistics
from swarm import awake
from swarm.drafting.drafter import Drafter
from swarm.speculation.cost import Cost
from swarm.speculation.overlap import Overlap
from swarm.speculation.tree import NOTHING, DraftTree
from swarm.speculation.windows import Window
from swarm.tasks import Alongside

T = TypeVar("T")

LEAST_AHEAD = 0.01
"""Chance of a draft that is still worked out while a round is in flight."""
MAX_FLIGHT = 256
"""Drafts of a tree on its way, above which it gets no more."""


class Draft:
    """A drafter on the torch thread, as the event loop sees it, and how much of it a round gets."""

    def __init__(
        self,
        drafter: Drafter,
        thread: Executor,
        window: Window,
        overlap: Overlap,
        cost: Cost,
        *,
        in_turns: bool = False,
    ) -> None:
        """`in_turns`: others wait for the thread, and have it between any two steps."""
        self._drafter = drafter
        self._thread = thread
        self._window = window
        self._overlap = overlap
        self._cost = cost
        self._in_turns = in_turns
        self._next_round = 0.0  # from when on a tree on its way may get more
        self.sent_more = 0
        """Drafts that came to trees on their way."""

    async def propose(self, tokens: Sequence[int], room: int) -> DraftTree:
        """Drafts that may follow `tokens`, at most `room` tokens far."""
        if room <= 0 or not self._window.limit:
            return NOTHING
        if not self._in_turns:
            return await self._on_thread(self._propose, tokens, room)
        await self._on_thread(self._drafter.follow, tokens, room)
        while await self._on_thread(self._drafter.catch_up):
            pass
        while await self._on_thread(self._step):
            pass
        return await self._on_thread(self._best)

    async def follow(self, tokens: Sequence[int], room: int) -> None:
        """Go on with what is on its way after `tokens`."""
        await self._on_thread(self._drafter.follow, tokens, room)

    def judged(self, accepted: int) -> None:
        """So many of the last proposal's drafts stand."""
        self._window.judged(accepted)

    @contextlib.asynccontextmanager
    async def working_ahead(self, chain: Chain) -> AsyncIterator[None]:
        """Meanwhile let the drafter work on what it proposed, whatever of it will stand, and send what is worth it."""
        self._next_round = max(self._next_round, time.perf_counter() + self._overlap.gap)
        async with Alongside(self._work_ahead(chain), "working ahead"):
            yield

    async def _work_ahead(self, chain: Chain) -> None:
        if not self._window.limit:
            return
        while True:
            is_growing = self._drafter.promise > LEAST_AHEAD and await self._on_thread(self._grow) > 0
            pause = self._next_round - time.perf_counter()
            if pause <= 0 and await self._send_more(chain):
                continue
            if not is_growing and (pause <= 0 or not self._overlap.is_wanted):
                return
            if not is_growing:
                await asyncio.sleep(pause)

    async def _send_more(self, chain: Chain) -> bool:
        """Let the tree on its way have more drafts; whether any were worth it."""
        flight = chain.flight
        if not self._overlap.is_wanted or flight is None or not 0 < len(flight) <= MAX_FLIGHT:
            return False
        more = await self._on_thread(self._drafter.more, flight, self._overlap.limit)
        more = more.cut(self._overlap.size(more.chances))
        if not len(more):
            return False
        self._next_round = time.perf_counter() + self._overlap.gap
        self.sent_more += len(more)
        self._cost.note_sent(len(more))
        await chain.send_more(more)
        return True

    def _propose(self, tokens: Sequence[int], room: int) -> DraftTree:
        self._drafter.follow(tokens, room)
        while self._step():
            pass
        return self._best()

    def _step(self) -> bool:
        """Work on one more guess, unless the round has enough of them; whether there may be more to do."""
        drafter, window = self._drafter, self._window
        return not window.is_enough(drafter.chances(window.limit), drafter.promise) and self._grow() > 0

    def _best(self) -> DraftTree:
        drafter, window = self._drafter, self._window
        tree = drafter.tree(window.size(drafter.chances(window.limit)))
        window.sent(len(tree))
        return tree

    def _grow(self) -> int:
        started = time.perf_counter()
        drafts = self._drafter.grow()
        if drafts:
            self._cost.note_drafting(drafts, time.perf_counter() - started)
        return drafts

    async def _on_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


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

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why there is no more room; None while there is."""
        if self.room:
            return None
        if self.ended:
            return "stop"
        return "length" if len(self.new_tokens) >= self.max_new_tokens else "context"

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


async def generate(
    context: Context, draft: Draft, chain: Chain, cost: Cost, statistics: Statistics
) -> AsyncGenerator[list[int], None]:
    """Yield the committed tokens of round after round. Raises ChainLost or PeerError when nobody can go on."""
    began = time.perf_counter()
    while context.room:
        started, pauses = time.perf_counter(), awake.clock().pauses
        is_on_its_way, before = chain.judges(context.tokens), draft.sent_more
        if is_on_its_way:
            drafts = NOTHING
            await draft.follow(context.tokens, context.room - 1)
        else:
            drafts = await _draft(context, draft, chain)
            cost.note_sent(1 + len(drafts))
        drafted = time.perf_counter()
        async with draft.working_ahead(chain):
            verdict = await chain.verify(context.tokens, drafts)
        now = time.perf_counter()
        seconds = now - drafted
        # what hops say of their work may be anything, but not more than the time that has passed
        computed = min(sum(verdict.compute), now - began if is_on_its_way else seconds)
        accepted = len(verdict.tokens) - (not is_on_its_way)
        statistics.count(
            len(verdict.tokens),
            len(drafts) + draft.sent_more - before,
            accepted,
            draft_seconds=drafted - started,
            trip_seconds=seconds,
            compute_seconds=computed,
        )
        if not chain.was_late and awake.clock().pauses == pauses:
            cost.note_tokens(len(verdict.tokens), time.perf_counter() - started)
        if not chain.was_disturbed:
            cost.announce(sum(hop.token_seconds for hop in chain.hops), len(chain.hops), chain.seconds_alone)
            cost.note_trip(1 + len(drafts), seconds, computed)
        if not is_on_its_way:
            draft.judged(accepted)
        yield context.commit(verdict.tokens)


async def _draft(context: Context, draft: Draft, chain: Chain) -> DraftTree:
    """Drafts of the next round, while the chain prefills whatever it lacks of the text."""
    async with Alongside(chain.prefill(context.tokens), "prefilling") as prefill:
        drafts = await draft.propose(context.tokens, context.room - 1)
        await prefill
    return drafts
