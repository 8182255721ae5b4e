"""Staying in: whom a node greets and when, in a time of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from swarm.neighbours import PERIOD_SECONDS, greet_any, stay_in
from swarm.wire import Contact

BOOTSTRAPS = [Contact("bootstrap 1"), Contact("bootstrap 2")]
FRIEND = Contact("friend")


class Surroundings:
    """Nodes that are there or not, and what a node among them did."""

    def __init__(self, *present: Contact) -> None:
        self.present = set(present)
        self.neighbours: set[Contact] = set()
        self.greeted: list[Contact] = []
        self.waits: list[float] = []
        self.looks = 0

    async def greet(self, contact: Contact) -> bool:
        self.greeted.append(contact)
        if contact in self.present:
            self.neighbours.add(contact)
        return contact in self.present

    async def look_around(self) -> None:
        self.looks += 1
        self.neighbours &= self.present

    def stay(self, rounds: int, meanwhile: Callable[[int], None] = lambda _: None) -> None:
        """Live through so many rounds; `meanwhile` may change the world after each."""

        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)
            if len(self.waits) == rounds:
                raise asyncio.CancelledError
            meanwhile(len(self.waits))

        run(
            stay_in(
                BOOTSTRAPS,
                self.greet,
                self.look_around,
                is_alone=lambda: not self.neighbours,
                reached=lambda: [FRIEND],
                sleep=sleep,
            )
        )


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    async def until_cancelled() -> None:
        await asyncio.wait([asyncio.ensure_future(coroutine)])

    asyncio.run(until_cancelled())


def test_initial_peers_are_all_greeted_again_and_again() -> None:
    world = Surroundings(*BOOTSTRAPS)
    world.stay(3)
    assert world.greeted == BOOTSTRAPS * 3
    assert world.looks == 3
    assert all(PERIOD_SECONDS / 2 < wait <= PERIOD_SECONDS for wait in world.waits)


def test_bootstrap_that_comes_back_is_greeted_by_who_has_other_neighbours() -> None:
    world = Surroundings(FRIEND)
    world.neighbours = {FRIEND}
    world.stay(3, lambda turn: world.present.add(BOOTSTRAPS[0]) if turn == 2 else None)
    assert world.neighbours == {FRIEND, BOOTSTRAPS[0]}
    assert world.greeted == BOOTSTRAPS * 3  # and a friend need not be, as long as somebody is there


def test_node_that_lost_everybody_returns_to_whom_it_had_reached() -> None:
    world = Surroundings()
    world.stay(4, lambda turn: world.present.add(FRIEND) if turn == 2 else None)
    assert world.neighbours == {FRIEND}
    assert world.greeted == [*BOOTSTRAPS, FRIEND] * 3 + BOOTSTRAPS


def test_node_alone_tries_soon_and_then_ever_more_rarely() -> None:
    world = Surroundings()
    world.stay(200)
    assert world.waits[0] <= 0.5
    assert max(world.waits) <= PERIOD_SECONDS
    assert min(world.waits[10:]) > PERIOD_SECONDS / 2


def test_joining_needs_one_answer_and_does_not_wait_for_the_dead() -> None:
    async def greet(contact: Contact) -> bool:
        if contact == BOOTSTRAPS[0]:
            await asyncio.Event().wait()  # a dead node's address takes for ever
        return contact == BOOTSTRAPS[1]

    async def join() -> None:
        assert await greet_any(greet, BOOTSTRAPS)
        assert not await greet_any(greet, [FRIEND])
        assert not await greet_any(greet, [])

    asyncio.run(join())
