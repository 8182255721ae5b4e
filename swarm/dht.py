"""The records that all share, on a Kademlia of our own nodes: found by walking towards a key, from node to node.

hivemind carries the calls (`swarm/calls.py`) and keeps the routing table. Its own look-up is not used: there, one node
that answers with nonsense can end or hang a search, and one that names others can push honest ones out of it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from bisect import insort
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from hivemind.dht.routing import DHTID
from hivemind.p2p import P2P, PeerID

from swarm import awake
from swarm.calls import ANSWER_SECONDS, NEAREST, OF_ONE_RANGE, Answer, DhtNode, accepted, place_of
from swarm.clocks import Clocks
from swarm.complaints import Complaints
from swarm.directory import Seen
from swarm.errors import LookupFailed
from swarm.membership import Membership
from swarm.ranges import diverse
from swarm.shelf import MAX_SUBKEYS, OWN
from swarm.tasks import owned

log = logging.getLogger("specswarm")

DEADLINE_SECONDS = 10.0  # of a look-up, and of storing a record
_WALK_SECONDS = DEADLINE_SECONDS - ANSWER_SECONDS  # leaves time to store
_AT_ONCE = 32  # nodes being asked at the same time
_MOST_ANSWERS = 3 * NEAREST  # after which nobody else of another network, or nearer, is hoped for
MAX_FOUND = 2 * MAX_SUBKEYS  # records of a look-up: what honest nodes have is mostly the same
_AT_A_TIME = 32  # records, each of which takes a tenth of a millisecond or two to check
_MOST_BAD = 16  # records that are none, after which no more of an answer is heeded: honest nodes keep none

Heed = Callable[[PeerID, Answer], Awaitable[None]]
"""What is done with a node's answer."""


@dataclass(slots=True)
class _Found:
    """A record that a look-up has come upon, and the least age that anybody says it has."""

    record: bytes
    issued: float
    age: float
    networks: set[str]
    """Those of the nodes that have one of its peer."""


@dataclass(slots=True)
class _Walk:
    """How far a look-up came."""

    asked: int = 0
    answered: int = 0
    is_whole: bool = False
    """Whether it came to its end."""

    @property
    def says_nobody(self) -> bool:
        """Whether there is nothing if it has found nothing: by the word of most, for one may have started just now."""
        return self.is_whole and 2 * self.answered > self.asked


class Dht:
    """A RecordStore on the nodes of the swarm; neither reading nor writing takes longer than said."""

    def __init__(
        self, p2p: P2P, *, is_server: bool, swarm: Membership, complaints: Complaints | None = None
    ) -> None:
        """A mere client (`is_server=False`) keeps nothing for others; nobody outside `swarm` is heeded; `complaints`
        hears of nodes whose answers are none."""
        self._complaints = complaints or Complaints()
        self._node = DhtNode(p2p, is_server=is_server, swarm=swarm, complaints=self._complaints)
        self._is_server = is_server

    async def start(self) -> None:
        """Take part, until the daemon ends."""
        await self._node.start()

    @property
    def is_alone(self) -> bool:
        """Whether no other node is known."""
        return self._node.is_alone

    @property
    def clocks(self) -> Clocks:
        """What time it is at the nodes that answered lately."""
        return self._node.clocks

    @property
    def met_strangers(self) -> bool:
        """Whether a node that was asked belongs to another swarm."""
        return self._node.met_strangers

    def knows_caller(self, peer: PeerID) -> bool:
        """Whether a node has called lately, and showed that it is of this swarm."""
        return self._node.knows_caller(peer)

    async def ping(self, peer_id: str, seconds: float) -> bool:
        """Whether that node answers in that time; both know each other then."""
        return await self._node.ping(PeerID.from_base58(peer_id), seconds)

    async def look_around(self) -> None:
        """Get to know the nodes nearest to this one, and forget those that are gone."""
        await self._walk(place_of(self._node.peer), _pass_over)

    async def put(self, keys: Sequence[str], subkey: str, value: bytes, seen: Seen) -> bool:
        """Store on the nodes nearest to each key; whether under each of them some node took it. `seen` gets each record
        that one of them had under the subkey."""
        places = [DHTID.generate(key) for key in keys]
        return all(await asyncio.gather(*(self._put(place, subkey, value, seen) for place in places)))

    async def get(self, key: str) -> list[tuple[str, bytes, float]]:
        """The records under a key: (subkey, value, age in seconds), of every subkey the one that was issued last; of
        very many, those that nodes of most networks have.

        Raises LookupFailed if nobody answers, or if there are none as far as is known, and that is not far enough.
        """
        place = DHTID.generate(key)
        shelf = self._node.shelf
        found = {
            subkey: _Found(entry.record, entry.issued, shelf.clock() - entry.born, {OWN})
            for subkey, entry in shelf.get(place.to_bytes()).items()
        }

        async def heed(peer: PeerID, answer: Answer) -> None:
            read = bad = 0
            network = self._node.ranges.of(peer)
            for subkey, (record, age) in answer.records.items():
                held = found.get(subkey)
                if held is not None and held.record == record:  # most nodes have the same records
                    held.age = min(held.age, age)
                    held.networks.add(network)
                    continue
                said = accepted(place, subkey, record, self._node.swarm)
                read, bad = read + 1, bad + (said is None)
                if bad > _MOST_BAD:
                    self._complaints.about(
                        "records", peer.to_base58(), "it answers with records that are none: no more are read"
                    )
                    return
                if read % _AT_A_TIME == 0:
                    await asyncio.sleep(0)  # a turn for the rounds of a generation
                held = found.get(subkey)
                if said is not None and (held is None or held.issued < said.issued):
                    networks = set() if held is None else held.networks
                    found[subkey] = _Found(record, said.issued, age, {*networks, network})

        walk = await self._walk(place, heed)
        if not walk.answered or (not found and not walk.says_nobody):
            raise LookupFailed(f"nodes asked: {walk.asked}, answers: {walk.answered}")
        kept = sorted(found.items(), key=lambda item: -len(item[1].networks))[:MAX_FOUND]
        return [(subkey, one.record, one.age) for subkey, one in kept]

    async def _put(self, place: DHTID, subkey: str, record: bytes, seen: Seen) -> bool:
        nodes: list[PeerID] = []
        held: set[bytes] = set()

        async def heed(peer: PeerID, answer: Answer) -> None:
            nodes.append(peer)
            if subkey in answer.records:
                held.add(answer.records[subkey][0])

        await self._walk(place, heed)
        for other in held:
            seen(other)
        await self._node.learn_ranges(nodes)
        nodes = self._node.chosen(sorted(nodes, key=lambda peer: place.xor_distance(place_of(peer))))
        if self._is_server:
            self._node.keep(place, subkey, record)  # this alone is nobody who took it
        taken = await asyncio.gather(*(self._node.store(peer, place, subkey, record) for peer in nodes))
        return any(taken)

    async def _walk(self, place: DHTID, heed: Heed) -> _Walk:
        """Ask the nodes nearest to a place, and those that they name; `heed` gets each answer.

        Ends when the nearest that answer have all been asked, or after a while: what has been heeded counts then.
        """
        walk = _Walk()
        try:
            async with awake.timeout(_WALK_SECONDS):
                await self._ask_all(place, heed, walk)
                walk.is_whole = True
        except TimeoutError:
            log.warning("a look-up took too long: some nodes of the swarm were not asked")
        return walk

    async def _ask_all(self, place: DHTID, heed: Heed, walk: _Walk) -> None:
        search = Search(place, self._node)
        asking: dict[asyncio.Task[Answer | None], PeerID] = {}
        try:
            while True:
                for peer in search.next(_AT_ONCE - len(asking)):
                    asking[owned(self._node.find(peer, place), "a question to a node")] = peer
                    walk.asked += 1
                if not asking:
                    return
                done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                answers = [(asking.pop(task), task.result()) for task in done]
                await self._node.learn_ranges(peer for peer, answer in answers if answer is not None)
                for peer, answer in answers:
                    if answer is not None:
                        search.note(peer, answer.nodes)
                        walk.answered += 1
                        await heed(peer, answer)
        finally:
            for task in asking:
                task.cancel()


class Search:
    """Whom a look-up asks, one after the other. Pure.

    Those nearest to the place that answer are wanted: as many as keep a record, of which those of one network are only
    a share. Until they are known, or many more have answered, whoever is near is asked; by turns of those who named
    them, so that a crowd that names its own keeps nobody from being asked whom others name.
    """

    def __init__(self, place: DHTID, node: DhtNode) -> None:
        """It begins with those whom `node` knows."""
        self._place = place
        self._ranges = node.ranges
        known = node.nearest(place)
        self._met = {node.peer, *known}
        self._waiting: dict[PeerID | None, list[PeerID]] = {None: self._sorted(known)}  # by who named them
        self._answered: list[PeerID] = []  # only who answers may push others out of the search

    def next(self, count: int) -> list[PeerID]:
        """So many, or fewer, to be asked now."""
        reach, found = self._reach, list[PeerID]()
        while self._waiting and len(found) < count:
            for namer in list(self._waiting)[: count - len(found)]:
                queue = self._waiting.pop(namer)
                while queue and self._distance(queue[0]) >= reach:
                    queue.pop(0)
                if queue:
                    found.append(queue.pop(0))
                    self._waiting[namer] = queue  # behind all others
        return found

    def note(self, peer: PeerID, named: frozenset[PeerID]) -> None:
        """A node has answered, and named others."""
        insort(self._answered, peer, key=self._distance)
        self._waiting[peer] = self._sorted(named - self._met)
        self._met |= named

    @property
    def _reach(self) -> float:
        """How near to the place somebody must be to be of use still."""
        wanted = diverse(self._answered, self._ranges.of, NEAREST, OF_ONE_RANGE)
        if len(self._answered) >= _MOST_ANSWERS:
            return -math.inf if len(wanted) == NEAREST else self._distance(self._answered[NEAREST - 1])
        return math.inf if len(wanted) < NEAREST else self._distance(wanted[-1])

    def _sorted(self, nodes: Iterable[PeerID]) -> list[PeerID]:
        return sorted(nodes, key=self._distance)

    def _distance(self, peer: PeerID) -> int:
        return int(self._place.xor_distance(place_of(peer)))


async def _pass_over(peer: PeerID, answer: Answer) -> None:
    """That it came is all that counts."""
