"""What the nodes of the DHT ask each other: are you there, keep this record, what do you have near this key.

The rules that nobody can talk a node out of:
- A node's place follows from its peer id, which the transport has proven: nobody sits where he likes, or in another's
  seat.
- A record is kept and passed on only if the peer it speaks about has signed it, under that peer's own subkey, for as
  long as it lives from the time when it was first seen; and never in place of one that was issued later.
- Whatever else a stranger answers is no answer, and he is left alone for a while.
- Who calls too often is refused before anything is looked up for him.
- Where there is not room for all, nodes and records of one network have a share of it: places near a key can be made.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from hivemind.dht.routing import DHTID, RoutingTable
from hivemind.p2p import P2P, P2PContext, P2PHandlerError, PeerID
from hivemind.p2p.servicer import ServicerBase
from hivemind.proto import auth_pb2, dht_pb2

from swarm import awake, daemon, directory
from swarm.clocks import Clocks
from swarm.complaints import Complaints
from swarm.errors import BadMessage
from swarm.foreign import printable
from swarm.membership import REFUSAL, Membership
from swarm.ranges import Ranges, diverse, filled, range_of
from swarm.rates import Rates
from swarm.records import Envelope
from swarm.shelf import MAX_SUBKEYS, OWN, Entry, Shelf
from swarm.tasks import owned, report

log = logging.getLogger("specswarm")

T = TypeVar("T")

ANSWER_SECONDS = 3.0  # for a node to answer
NEAREST = 20  # nodes to name in an answer, and to keep a record
OF_ONE_RANGE = 2  # of these, before those of other networks
_SILENT_SECONDS = 10.0  # a node that did not answer is not asked again so soon
_CALLS_PER_MINUTE = 240  # of one node; a look-up asks a node once, and there is one every few seconds
_MAX_KEYS = 1  # of one request
_MAX_NODES = 2048  # in the routing table
_MAX_PEER_ID = 64  # bytes
_NONSENSE = (msgspec.MsgspecError, ValueError, RecursionError)  # what msgspec says of a stranger's bytes

_items = msgspec.msgpack.Decoder(Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_SUBKEYS)])
_record = msgspec.msgpack.Decoder(tuple[str, bytes, Annotated[float, msgspec.Meta(ge=0)]])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node has under a key, unchecked, and the nodes it names."""

    records: Mapping[str, tuple[bytes, float]]
    """By subkey, the record and its age in seconds."""
    nodes: frozenset[PeerID]


def place_of(peer: PeerID) -> DHTID:
    """Where a node stands among the keys."""
    return DHTID.generate(peer.to_bytes())


def accepted(place: DHTID, subkey: str, record: bytes, swarm: Membership) -> Envelope | None:
    """What a record says, if it may lie there, in this swarm."""
    try:
        found = directory.accepts(record, subkey, now=time.time(), swarm=swarm)
    except BadMessage:
        return None
    return found if any(place == DHTID.generate(key) for key in directory.keys_of(found)) else None


def _telling_of_bugs(
    answer: Callable[[DhtNode, Any, P2PContext], Awaitable[Any]],
) -> Callable[[DhtNode, Any, P2PContext], Awaitable[Any]]:
    """hivemind tells the caller alone what went wrong."""

    @functools.wraps(answer)
    async def telling(node: DhtNode, request: Any, context: P2PContext) -> Any:
        try:
            return await answer(node, request, context)
        except PermissionError:  # what the caller is told
            raise
        except Exception as error:
            report(f"answering {answer.__name__} failed", error)
            raise

    return telling


class _WaitingCalls(dict[UUID, asyncio.Future[bytes]]):
    """hivemind's calls that wait for an answer, by number; one that was cancelled counts as gone at once.

    Else, an answer that comes before hivemind has taken it away ends the task that reads all answers: this node would
    never hear of any again, and not even be able to leave.
    """

    def __contains__(self, number: object) -> bool:
        call = self.get(number)  # type: ignore[call-overload]
        return call is not None and not call.done()


class DhtNode(ServicerBase):  # type: ignore[misc]  # hivemind is untyped
    """One node: its shelf, its routing table, and the calls of and to others.

    A mere client (`is_server=False`) answers nobody, and nobody takes note of it.
    """

    # hivemind keeps the calls it finds in a class here; a subclass must not take over those of its parent
    _rpc_handlers = None
    _stub_type = None

    def __init__(
        self, p2p: P2P, *, is_server: bool, swarm: Membership, complaints: Complaints | None = None
    ) -> None:
        super().__init__()
        self._complaints = complaints or Complaints()
        self.swarm = swarm
        self.met_strangers = False
        """Whether a node that was called is no member of this one's swarm, or says that this one is not of its."""
        self.peer: PeerID = p2p.peer_id
        self.shelf = Shelf()
        self.clocks = Clocks()
        self._calls = Rates(_CALLS_PER_MINUTE)
        self._callers: dict[PeerID, None] = {}  # who called last, and is of this swarm
        self._p2p = p2p
        p2p._client.control._pending_calls = _WaitingCalls()
        self._is_server = is_server
        self._table = RoutingTable(place_of(self.peer), NEAREST, depth_modulo=5)
        self._silent: dict[PeerID, float] = {}  # until when, by the monotonic clock
        self._answered: dict[PeerID, float] = {}  # who did last, and when
        self.ranges = Ranges[PeerID]()
        self._learning: asyncio.Task[None] | None = None  # of ranges
        # With an empty id in it, nobody adds this node to a routing table.
        self._info = dht_pb2.NodeInfo(node_id=place_of(self.peer).to_bytes() if is_server else b"")

    async def start(self) -> None:
        """Answer from now on."""
        if self._is_server:
            await self.add_p2p_handlers(self._p2p)

    @property
    def is_alone(self) -> bool:
        """Whether no other node is known."""
        return not self._table.uid_to_peer_id

    def knows_caller(self, peer: PeerID) -> bool:
        """Whether a node has called lately, and showed that it is of this swarm."""
        return peer in self._callers

    def nearest(self, place: DHTID) -> list[PeerID]:
        """The known nodes nearest to a place; those of one network have a share before others are left out."""
        known = self._table.uid_to_peer_id
        if len(known) <= NEAREST:
            return [peer for _, peer in self._table.get_nearest_neighbors(place, NEAREST)]
        where = int(place)
        return self.chosen([known[uid] for uid in sorted(known, key=where.__xor__)])

    def chosen(self, nodes: Sequence[PeerID]) -> list[PeerID]:
        """As many of these as there is room for, where the nearest come first."""
        return filled(nodes, diverse(nodes, self.ranges.of, NEAREST, OF_ONE_RANGE), NEAREST)

    async def learn_ranges(self, nodes: Iterable[PeerID]) -> None:
        """Find out from where nodes that are connected are, unless that is known."""
        if all(node in self.ranges for node in nodes):
            return
        if self._learning is None or self._learning.done():
            self._learning = owned(self._learn_ranges(), "asking where nodes are", outcomes=daemon.BROKEN)
        await asyncio.wait([self._learning])

    async def _learn_ranges(self) -> None:
        async with awake.timeout(ANSWER_SECONDS):
            for peer, maddr in await daemon.connected(self._p2p):
                self.ranges.note(peer, range_of(maddr))

    def keep(self, place: DHTID, subkey: str, record: bytes, giver: PeerID | None = None) -> bool:
        """Put a record on this node's shelf, if it may lie there; `giver`: whoever brings it, None: this node."""
        found = accepted(place, subkey, record, self.swarm)
        if found is None:
            if giver is not None:
                self._complaints.about("records", giver.to_base58(), "it brings a record that is none: not kept")
            return False
        origin = OWN if giver is None else self.ranges.of(giver)
        return self.shelf.put(place.to_bytes(), subkey, record, found.issued, found.lifetime, origin)

    # Calls to others. None of them raises: a node that is gone, or talks nonsense, is dropped from the routing table.

    async def ping(self, peer: PeerID, seconds: float = ANSWER_SECONDS) -> bool:
        """Whether the node answers in that time; asked even if it was silent just now."""
        self._silent.pop(peer, None)
        asked = time.time()
        response = await self._call(peer, "rpc_ping", dht_pb2.PingRequest(peer=self._info), seconds)
        if response is not None:
            self._compare_clocks(peer, response.dht_time, asked)
        return response is not None

    async def store(self, peer: PeerID, place: DHTID, subkey: str, record: bytes) -> bool:
        """Whether the node keeps this record now."""
        request = dht_pb2.StoreRequest(
            keys=[place.to_bytes()], subkeys=[subkey.encode()], values=[record], peer=self._info
        )
        response = await self._call(peer, "rpc_store", request)
        return response is not None and all(response.store_ok) and len(response.store_ok) == 1

    async def find(self, peer: PeerID, place: DHTID) -> Answer | None:
        """What a node has at a place; None if it does not answer, or not in order."""
        request = dht_pb2.FindRequest(keys=[place.to_bytes()], peer=self._info)
        asked = time.time()
        response = await self._call(peer, "rpc_find", request)
        if response is None:
            return None
        try:
            [result] = response.results
            records = _unpack(result.value) if result.value else {}
        except _NONSENSE:
            self._lose(peer)
            return None
        self._compare_clocks(peer, result.expiration_time, asked)
        named = (raw for raw in result.nearest_peer_ids[:NEAREST] if 0 < len(raw) <= _MAX_PEER_ID)
        return Answer(records, frozenset(map(PeerID, named)))

    # Calls of others. hivemind finds them by their names, and reads the annotations.

    @_telling_of_bugs
    async def rpc_ping(self, request: dht_pb2.PingRequest, context: P2PContext) -> dht_pb2.PingResponse:
        """I am here."""
        auth = self._welcome(context.remote_id, request)
        return dht_pb2.PingResponse(auth=auth, peer=self._info, dht_time=time.time(), available=True)

    @_telling_of_bugs
    async def rpc_store(self, request: dht_pb2.StoreRequest, context: P2PContext) -> dht_pb2.StoreResponse:
        """Keep records."""
        auth = self._welcome(context.remote_id, request)
        giver = context.remote_id
        await self.learn_ranges([giver])
        given = zip(request.keys, request.subkeys, request.values, strict=False)
        kept = [
            self.keep(_place(key), subkey.decode(errors="replace"), record, giver)
            for key, subkey, record in list(given)[:_MAX_KEYS]
        ]
        return dht_pb2.StoreResponse(auth=auth, store_ok=kept, peer=self._info)

    @_telling_of_bugs
    async def rpc_find(self, request: dht_pb2.FindRequest, context: P2PContext) -> dht_pb2.FindResponse:
        """Say what is here, and who is nearer."""
        auth = self._welcome(context.remote_id, request)
        found = [self._result(_place(key), context.remote_id) for key in request.keys[:_MAX_KEYS]]
        return dht_pb2.FindResponse(auth=auth, results=found, peer=self._info)

    def _welcome(self, caller: PeerID, request: Any) -> auth_pb2.ResponseAuthInfo:
        """Note who calls; what shows him that this node is of the same swarm. Raises PermissionError if he is not, or
        calls too often, with the text that he gets."""
        name = caller.to_base58()
        if not self._calls.allows(name):
            self._complaints.about("calls", name, f"it calls too often: {_CALLS_PER_MINUTE} a minute are answered")
            raise PermissionError(f"too many calls: {_CALLS_PER_MINUTE} a minute are answered")
        self._calls.note(name)
        if not self.swarm.admits(name, request.auth.signature):
            self._complaints.about("stranger", name, "it calls, and is no member of this swarm")
            raise PermissionError(REFUSAL)
        _note_last(self._callers, caller, None)
        self._meet(caller, request.peer)
        return auth_pb2.ResponseAuthInfo(signature=self.swarm.badge(self.peer.to_base58()))

    def _result(self, place: DHTID, asker: PeerID) -> dht_pb2.FindResult:
        records = self.shelf.get(place.to_bytes())
        return dht_pb2.FindResult(
            type=dht_pb2.FOUND_REGULAR if records else dht_pb2.NOT_FOUND,
            value=_pack(records, self.shelf.clock()) if records else b"",
            expiration_time=time.time(),  # no end: what time it is here
            nearest_peer_ids=[peer.to_bytes() for peer in self.nearest(place) if peer != asker],
        )

    async def _call(self, peer: PeerID, name: str, request: Any, seconds: float = ANSWER_SECONDS) -> Any:
        """The response of another node in that time; None if there is none."""
        if self._silent.get(peer, 0.0) > time.monotonic():
            return None
        request.auth.signature = self.swarm.badge(self.peer.to_base58())
        asked = time.monotonic()
        try:
            # hivemind's own time limit may swallow a cancellation (asyncio.wait_for before Python 3.12 does)
            async with awake.timeout(seconds):
                response = await getattr(self.get_stub(self._p2p, peer), name)(request)
        except Exception as error:  # whatever hivemind, protobuf and the daemon make of a node that is gone or lies
            log.debug("%s of %s failed: %s", name, peer, printable(str(error)) or type(error).__name__)
            self.met_strangers |= isinstance(error, P2PHandlerError) and REFUSAL in str(error)
            if self._answered.get(peer, -math.inf) < asked:  # or it is there, and only this answer is late
                self._lose(peer)
            return None
        if not self.swarm.admits(peer.to_base58(), response.auth.signature):
            self.met_strangers = True
            self._lose(peer)
            return None
        _note_last(self._answered, peer, time.monotonic())
        self._meet(peer, response.peer)
        return response

    def _compare_clocks(self, peer: PeerID, theirs: float, asked: float) -> None:
        """A node has said what time it is there, in answer to what it was `asked` at that time here."""
        if math.isfinite(theirs) and theirs > 0:  # 0: it did not say
            self.clocks.note(peer.to_base58(), (asked + time.time()) / 2 - theirs)

    def _meet(self, peer: PeerID, info: dht_pb2.NodeInfo) -> None:
        """Note a node that called or answered; mere clients are not noted. The id that it claims does not count."""
        if not info.node_id or peer == self.peer:
            return
        self._silent.pop(peer, None)
        place = place_of(peer)
        if place in self._table or len(self._table.uid_to_peer_id) < _MAX_NODES:
            self._table.add_or_update_node(place, peer)

    def _lose(self, peer: PeerID) -> None:
        """Forget a node that does not answer."""
        now = time.monotonic()
        self._silent = {other: until for other, until in self._silent.items() if until > now}
        self._silent[peer] = now + _SILENT_SECONDS
        if place_of(peer) in self._table:
            del self._table[place_of(peer)]

    @classmethod
    def _get_handle_name(cls, _namespace: str | None, method_name: str) -> str:
        """The name of a call on the wire."""
        return f"specswarm/1/{method_name}"


def _note_last(nodes: dict[PeerID, T], peer: PeerID, value: T) -> None:
    """Put a node behind all others, of which there may be so many."""
    nodes.pop(peer, None)
    nodes[peer] = value
    if len(nodes) > _MAX_NODES:
        del nodes[next(iter(nodes))]


def _place(key: bytes) -> DHTID:
    """Of a stranger's request. Raises PermissionError if it is no place."""
    if len(key) != DHTID.HASH_NBYTES:
        raise PermissionError("a key has another length")
    return DHTID.from_bytes(key)


def _pack(records: Mapping[str, Entry], now: float) -> bytes:
    """An array of (subkey, record, age in seconds) in msgpack."""
    return msgspec.msgpack.encode([(subkey, entry.record, now - entry.born) for subkey, entry in records.items()])


def _unpack(data: bytes) -> dict[str, tuple[bytes, float]]:
    """The records of an answer; what is none is left out by itself. Raises one of _NONSENSE if it is no array."""
    records = {}
    for item in _items.decode(data):
        with contextlib.suppress(*_NONSENSE):
            subkey, record, age = _record.decode(item)
            records[subkey] = record, age
    return records
