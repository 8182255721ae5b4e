"""One simulated request: the loop of a generation, as `client.loop` has it, in virtual time."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

from client.loop import LEAST_AHEAD, MAX_FLIGHT
from simulator.chain import Chain
from simulator.hosts import Host, Steps
from simulator.peer import DraftSpeed
from swarm.drafting.drafter import Drafter
from swarm.speculation.cost import Cost
from swarm.speculation.overlap import Overlap
from swarm.speculation.tree import NOTHING, DraftTree
from swarm.speculation.windows import Window
from swarm.wire import Verdict


@dataclass(slots=True)
class Record:
    """What became of a request; seconds."""

    arrived: float
    first_token: float | None = None
    finished: float | None = None
    tokens: int = 0
    first_tokens: int = 0
    """Of the first verdict."""
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    draft_seconds: float = 0.0
    """That nothing hides."""
    compute_seconds: float = 0.0
    """Of the stages, and ..."""
    link_seconds: float = 0.0
    """... over the links, for rounds that begin a tree."""
    stall_seconds: float = 0.0
    reroutes: int = 0
    drafted_at: str | None = None
    """The peer that drafted, if one did."""
    windows: list[int] = field(default_factory=list)
    """Drafts of each round that began a tree."""


class Loop:
    """Drafts, has them verified, and drafts again, at one host."""

    def __init__(
        self,
        env: simpy.Environment,
        host: Host,
        chain: Chain,
        drafter: Drafter,
        window: Window,
        overlap: Overlap,
        cost: Cost,
        speed: DraftSpeed,
        way_back: float = 0.0,
        is_alone: bool = False,
    ) -> None:
        """`way_back`: seconds from this host to the one that has asked; `is_alone`: whether nobody else computes on
        its machine."""
        self._env = env
        self._thread = host.thread
        self._chain = chain
        self._drafter = drafter
        self._window = window
        self._overlap = overlap
        self._cost = cost
        self._speed = speed
        self._way_back = way_back
        self._is_alone = is_alone
        self._slowness = 1.0  # times what drafting should take, the last time
        self._next_round = 0.0
        self._sent_more = 0

    def run(self, length: int, end: int, record: Record) -> Steps:
        """Bring a text of `length` tokens to `end`; what is committed goes into the record. Raises Failed."""
        env, chain = self._env, self._chain
        while length < end:
            started, before = env.now, self._sent_more
            is_on_its_way, room = chain.judges(length), end - length - 1
            if is_on_its_way:
                tree = NOTHING
                if self._thread.is_busy:
                    yield self._thread.run(0.0)  # behind what it works on
                self._drafter.follow(range(length), room)
            else:
                prefill = env.process(chain.prefill(length)) if chain.lacks(length) else None
                if prefill is not None:
                    prefill.defused = True  # whoever waits for it is told what has failed, and nobody else
                tree = yield from self._propose(length, room)
                if prefill is not None:
                    yield prefill
                self._cost.note_sent(1 + len(tree))
                record.windows.append(len(tree))
            drafted = env.now
            self._next_round = max(self._next_round, drafted + self._overlap.gap)
            verdict = yield from self._verify(length, tree)
            seconds, tokens = env.now - drafted, verdict.tokens[: end - length]
            accepted = len(verdict.tokens) - (not is_on_its_way)
            if not chain.was_late:
                self._cost.note_tokens(len(verdict.tokens), env.now - started)
            if not chain.was_disturbed:
                self._cost.announce(
                    sum(hop.token_seconds for hop in chain.hops), len(chain.hops), chain.seconds_alone
                )
                self._cost.note_trip(1 + len(tree), seconds, sum(verdict.compute))
            if not is_on_its_way:
                self._window.judged(accepted)
            length += len(tokens)
            if not record.rounds:
                record.first_token, record.first_tokens = env.now + self._way_back, len(tokens)
            record.rounds += 1
            record.tokens += len(tokens)
            record.drafted += len(tree) + self._sent_more - before
            record.accepted += accepted
            record.draft_seconds += drafted - started
            if not is_on_its_way:
                record.compute_seconds += sum(verdict.compute)
                record.link_seconds += chain.links

    def _propose(self, length: int, room: int) -> Generator[simpy.Event, Any, DraftTree]:
        """Drafts that may follow, at most `room` tokens far."""
        drafter, window, seconds = self._drafter, self._window, 0.0
        if room <= 0 or not window.limit:
            return NOTHING
        if self._thread.is_busy:
            yield self._thread.run(0.0)  # behind what it works on
        drafter.follow(range(length), room)
        while not window.is_enough(drafter.chances(window.limit), drafter.promise):
            if not (drafts := drafter.grow()):
                break
            seconds += self._speed.seconds(drafts)
            self._cost.note_drafting(drafts, self._slowness * self._speed.seconds(drafts))
        tree = drafter.tree(window.size(drafter.chances(window.limit)))
        window.sent(len(tree))
        if seconds:
            started = self._env.now
            yield self._thread.run(seconds)
            self._slowness = (self._env.now - started) / seconds
        return tree

    def _verify(self, length: int, tree: DraftTree) -> Generator[simpy.Event, Any, Verdict]:
        """The verdict on drafts; until it comes, go on drafting. Raises Failed."""
        env, chain = self._env, self._chain
        if not self._window.limit:
            return (yield from chain.verify(length, tree))
        if self._is_alone and not self._overlap.is_wanted:
            started = env.now
            verdict = yield from chain.verify(length, tree)
            self._catch_up(started)
            return verdict
        ahead = env.process(self._work_ahead())
        try:
            return (yield from chain.verify(length, tree))
        finally:
            if ahead.is_alive:
                ahead.interrupt()

    def _catch_up(self, started: float) -> None:
        """Grow what has been drafted since then, where nobody else computes and nothing was sent."""
        drafter, now = self._drafter, self._env.now
        while started < now and drafter.promise > LEAST_AHEAD and (drafts := drafter.grow()):
            seconds = self._speed.seconds(drafts)
            self._cost.note_drafting(drafts, seconds)
            started += seconds
        if started > now:
            self._thread.run(started - now)  # it is still at the last

    def _work_ahead(self) -> Steps:
        """Go on drafting while a round is on its way, and send what is worth it."""
        env, overlap = self._env, self._overlap
        try:
            while True:
                is_growing = self._drafter.promise > LEAST_AHEAD and (yield from self._grow()) > 0
                pause = self._next_round - env.now
                if pause <= 0 and self._send_more():
                    continue
                if not is_growing and (pause <= 0 or not overlap.is_wanted):
                    return
                if not is_growing:
                    yield env.timeout(pause)
        except simpy.Interrupt:
            pass

    def _grow(self) -> Generator[simpy.Event, Any, int]:
        drafts = self._drafter.grow()
        if drafts:
            started = self._env.now
            yield self._thread.run(self._speed.seconds(drafts))
            self._cost.note_drafting(drafts, self._env.now - started)
        return drafts

    def _send_more(self) -> bool:
        """Let the tree on its way have more drafts; whether any were worth it."""
        overlap, flight = self._overlap, self._chain.flight
        if not overlap.is_wanted or flight is None or not (self._chain.may_grow and 0 < len(flight) <= MAX_FLIGHT):
            return False
        more = self._drafter.more(flight, overlap.limit)
        more = more.cut(overlap.size(more.chances))
        if not len(more):
            return False
        self._next_round = self._env.now + overlap.gap
        self._sent_more += len(more)
        self._cost.note_sent(len(more))
        self._chain.send_more(more)
        return True
