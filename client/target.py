"""What a client knows of the target: its sizes, its fingerprint, and who serves it how far away."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

from client.patience import seconds_of_work
from client.roster import Roster
from client.routing import Atlas, Hop, Kind
from client.seats import Seat
from swarm import awake
from swarm.directory import Directory, insist
from swarm.errors import BadMessage, ChainLost, LookupFailed, PeerLost, UsageError
from swarm.model.source import ModelInfo, ModelSource
from swarm.permits import permits
from swarm.ping import round_trip
from swarm.tasks import end, owned
from swarm.transport import Transport
from swarm.wire import Contact

REFRESH_SECONDS = 5.0
_MEASURE_SECONDS = 3.0  # to reach a peer and have its pings answered, ...
_LONG_SECONDS = 10.0  # ... and where there is no chain without those that did not answer so fast
_LEAST_SECONDS = 0.1  # that better peers have to answer, when a chain can be planned of those that have
_WITNESSES = 3  # peers asked whether it is us who are cut off, ...
_NODE_SECONDS = 6.0  # ... and how long the directory is, of which some nodes may be gone as well

T = TypeVar("T")

_NEWS_SECONDS = 0.5  # after which it is looked whether they are enough meanwhile
_TOGETHER = 0.02  # within which many answer: it is not tried for each of them whether they are enough


class Target:
    """The model that the chain serves; keeps what is known of its peers fresh."""

    def __init__(
        self,
        info: ModelInfo,
        fingerprint: str,
        transport: Transport,
        directory: Directory,
        *,
        allow: Collection[str] = (),
        deny: Collection[str] = (),
    ) -> None:
        """`allow`, `deny`: peers that may be in a chain (none: all may), and peers that may not."""
        self.info = info
        self.fingerprint = fingerprint
        self.transport = transport
        self.roster = Roster(info.num_layers, salt=secrets.randbits(64), pauses=self._pauses)
        self._directory = directory
        self._allow, self._deny = frozenset(allow), frozenset(deny)
        self._measuring: dict[Contact, asyncio.Task[bool]] = {}
        self._times_cut_off = 0
        self._tried: dict[str, float] = {}  # by peer: the end of the record whose addresses were tried last

    async def plan(
        self, *, tokens: int, excluded: Collection[str] = (), kinds: Collection[Kind] | None = None
    ) -> list[Hop]:
        """The best chain for rounds of `tokens` tokens, by what is known now: without the peers `excluded`, and of such
        as compute in one of `kinds` (None: in any). Raises ChainLost."""
        if not self.roster.peers:
            raise ChainLost(f"nobody serves this model (fingerprint {self.fingerprint[:12]}){await self._others()}")
        try:
            return await self._planned(lambda roster: roster.plan(tokens=tokens, excluded=excluded, kinds=kinds))
        except ChainLost as lost:
            raise ChainLost(f"{lost}{self._directory.trouble(self.fingerprint)}") from None

    async def fill(self, hops: Sequence[Hop], lost: Collection[str], **options: Any) -> list[Hop]:
        """As Roster.fill. Raises ChainLost."""
        return await self._planned(lambda roster: roster.fill(hops, lost, **options))

    async def faster(self, hops: Sequence[Hop], seconds: float, **options: Any) -> list[Hop]:
        """As Roster.faster. Raises ChainLost."""
        return await self._planned(lambda roster: roster.faster(hops, seconds, **options))

    async def seats(self, *, tokens: int) -> list[Seat]:
        """As Roster.seats."""
        return await self._planned(lambda roster: roster.seats(tokens=tokens))

    async def has_chain(self, *, tokens: int = 1, **options: Any) -> bool:
        """Whether a chain can be planned by what is known now; `options` are those of Roster.plan."""
        return bool(await self._best(tokens=tokens, **options))

    async def seconds_of_text(self, tokens: int) -> float:
        """That a chain may take for a text of so many tokens, by what is announced; 0 where there is no chain."""
        return seconds_of_work(await self._best(tokens=1), tokens)

    async def is_reachable(self, apart_from: Collection[str]) -> bool:
        """Whether anybody apart from these peers answers: one of a few others, or else a node of the directory.

        If so, those of the others that take much longer are out of reach.
        """
        measuring = {
            owned(self._measured(contact), f"asking {contact.peer_id}"): contact.peer_id
            for contact in self._witnesses(apart_from)
        }
        asking = owned(self._is_node_reachable(), "asking the directory")
        with awake.clock().kept() as clock:
            started = clock.now()
            try:
                if not await _any([*measuring, asking]):
                    self._times_cut_off += 1
                    return False
                if measuring:
                    await asyncio.wait(measuring, timeout=max(clock.now() - started, _LEAST_SECONDS))
                for task, peer_id in measuring.items():
                    if not (task.done() and task.result()):
                        self.roster.round_trips.pop(peer_id, None)
                return True
            finally:
                await end(*measuring, asking)

    def _witnesses(self, apart_from: Collection[str]) -> list[Contact]:
        """A few peers apart from these, and from this program, which is near itself whatever has become of its network:
        such as have answered before, if there are any."""
        known = self.roster.peers.keys() - {*apart_from, self.transport.peer_id}
        names = sorted(known & self.roster.round_trips.keys() or known)
        chosen = random.sample(names, min(_WITNESSES, len(names)))
        return [self.roster.peers[name].contact for name in chosen]

    async def refresh(
        self, *, silent_too: bool = False, is_enough: Callable[[], Awaitable[bool]] | None = None
    ) -> None:
        """Look the peers up, and measure the way to those that it is not known of. Raises LookupFailed if nobody
        answers.

        Returns when all have answered or had their time; or, soon after `is_enough` says so of the others, without
        those that take longer: they are taken note of as they come. One that did not answer is tried again when
        it has renewed its record, or, with more time, with `silent_too`: until then it is most likely gone, and the
        network would refuse to dial it again and again.
        """
        found = {
            peer.peer_id: peer
            for peer in await self._directory.peers_of(self.fingerprint)
            if permits(peer.peer_id, self._allow, self._deny)
        }
        if found != self.roster.peers:  # the tables of many peers take a while: not on the event loop
            self.roster.update(found, await asyncio.to_thread(Atlas, tuple(found.values())))
        unknown = [
            peer
            for peer_id, peer in found.items()
            if peer_id not in self.roster.round_trips and (silent_too or self._tried.get(peer_id) != peer.expires)
        ]
        self._tried = {peer_id: peer.expires for peer_id, peer in found.items()}
        seconds = _LONG_SECONDS if silent_too and is_enough else _MEASURE_SECONDS
        for contact in {peer.contact for peer in unknown} - self._measuring.keys():
            task = self._measuring[contact] = owned(
                self._measured(contact, seconds), f"measuring the way to {contact.peer_id}"
            )
            task.add_done_callback(partial(self._note_measured, contact))
        await self._await_enough({peer.contact for peer in unknown}, is_enough)

    async def close(self) -> None:
        """Measure nothing more."""
        await end(*self._measuring.values())

    async def keep_fresh(self) -> None:
        """Refresh again and again until cancelled, so that planning a chain never waits."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            with contextlib.suppress(LookupFailed):  # what is known stays
                await self.refresh()

    async def _await_enough(self, wanted: set[Contact], is_enough: Callable[[], Awaitable[bool]] | None) -> None:
        """Wait until all these have been measured; once the others are enough, only for as long again."""
        with awake.clock().kept() as clock:
            started, until = clock.now(), math.inf
            while tasks := [self._measuring[contact] for contact in wanted & self._measuring.keys()]:
                if until == math.inf and is_enough is not None and await is_enough():
                    until = clock.now() + max(clock.now() - started, _LEAST_SECONDS)
                left = until - clock.now()
                if left <= 0:
                    return
                # others may come meanwhile, too, and be measured
                await asyncio.wait(tasks, timeout=min(left, _NEWS_SECONDS), return_when=asyncio.FIRST_COMPLETED)
                if slow := [task for task in tasks if not task.done()]:
                    await asyncio.wait(slow, timeout=_TOGETHER)

    def _note_measured(self, contact: Contact, _: asyncio.Task[bool]) -> None:
        del self._measuring[contact]

    async def _measured(self, contact: Contact, seconds: float = _MEASURE_SECONDS) -> bool:
        """Take note of the way to a peer; whether it answered in that time."""
        try:
            async with awake.timeout(seconds):
                self.roster.round_trips[contact.peer_id] = await round_trip(self.transport, contact)
        except (PeerLost, BadMessage, TimeoutError):
            return False
        return True

    async def _best(self, **options: Any) -> list[Hop]:
        """The best chain by what is known now; nothing if there is none."""
        try:
            return await self._planned(lambda roster: roster.plan(**options))
        except ChainLost:
            return []

    async def _planned(self, plan: Callable[[Roster], T]) -> T:
        """What `plan` makes of the roster, in a thread: announcements may be such that it takes tens of milliseconds,
        and the rounds go on."""
        return await asyncio.to_thread(plan, self.roster.frozen())

    def _pauses(self) -> int:
        """How often this program has stood still, or heard nobody: what its streams do then is nobody else's fault."""
        return awake.clock().pauses + self._times_cut_off

    async def _is_node_reachable(self) -> bool:
        try:
            async with awake.timeout(_NODE_SECONDS):
                return await self._directory.is_reachable()
        except TimeoutError:
            return False

    async def _others(self) -> str:
        """What else there is, for a client that found no peer of its own model."""
        try:
            peers = await self._directory.all_peers()
        except LookupFailed as error:
            return f"; whether there are other models is not known ({error})"
        others = {f"{peer.model} ({peer.fingerprint[:12]})" for peer in peers}
        trouble = self._directory.trouble(self.fingerprint) or self._directory.trouble()
        if others:
            return f"; there are peers for {', '.join(sorted(others))}{trouble}"
        return trouble or ", nor any other"


async def find_fingerprint(source: ModelSource, directory: Directory, wanted: str | None) -> str:
    """The fingerprint of the weights to use.

    A source with its weights at hand states it. Otherwise it is the one that peers announce for this configuration; if
    there are several, `wanted` (its beginning suffices) chooses. Raises UsageError, ChainLost or LookupFailed.
    """
    own = await asyncio.to_thread(source.fingerprint)
    if own is not None:
        if wanted is not None and not own.startswith(wanted):
            raise UsageError(f"{source.name} has fingerprint {own[:12]}, not {wanted[:12]}")
        return own
    announced = {
        peer.fingerprint
        for peer in await insist(directory.all_peers)
        if peer.config_hash == source.info.config_hash
    }
    fitting = sorted(fingerprint for fingerprint in announced if fingerprint.startswith(wanted or ""))
    if not fitting:
        raise ChainLost(
            f"nobody serves {source.name} with this configuration{' and fingerprint' if wanted else ''}"
            f"{directory.trouble(source.info.config_hash)}"
        )
    if len(fitting) > 1:
        listed = ", ".join(fingerprint[:12] for fingerprint in fitting)
        raise UsageError(f"{source.name} is served with different weights: choose by --fingerprint ({listed})")
    return fitting[0]


async def _any(tasks: Collection[asyncio.Task[bool]]) -> bool:
    """Whether one of them says yes, as soon as it does."""
    waiting = set(tasks)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if any(task.result() for task in done):
            return True
    return False
