"""Whatever grows with what strangers do has a bound: each mapping and set of the programs is named here, with it."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hivemind.p2p import PeerID

from client.cooldown import Cooldowns
from client.excess import Excess
from peer import dials, early, introductions, shares, standing
from peer.dials import Dials
from peer.early import EarlyResults
from peer.introductions import Introductions
from peer.shares import Shares, Turns
from peer.standing import Standing
from swarm import ages, clocks, complaints, ranges, rates, relay, shelf
from swarm.ages import Ages
from swarm.clocks import Clocks
from swarm.complaints import Complaints
from swarm.drafting import model as drafting
from swarm.drafting.model import DraftModel
from swarm.errors import PeerLost
from swarm.incoming import IncomingStreams
from swarm.libp2p import _note_last
from swarm.ranges import Ranges
from swarm.rates import Rates
from swarm.relay import Relay
from swarm.shelf import Shelf
from swarm.speculation.sampling import Sampling
from swarm.wire import MAX_COMPLAINTS, Contact, Hidden, Round
from tests.toy_swarm import introduction

ROOT = Path(__file__).parents[1]
KINDS = {"dict", "set", "Counter", "OrderedDict", "defaultdict", "WeakKeyDictionary", "WeakSet"}

SESSIONS = "sessions that are open, of which there are so many (max_sessions)"
STREAMS = "streams that are open, of which there are so many (max_streams)"
HOPS = "hops of one chain, which this client has chosen"
FOUND = "peers that were found last: what a key has room for"
TEXT = "the text, or drafts of it"
OWN = "nothing that others do"

BOUNDED_BY = {
    "client/blocking.py SwarmModel._streaming": OWN,
    "client/cooldown.py Cooldowns._until": "checked here",
    "client/cooldown.py Cooldowns._pause": "as _until",
    "client/cooldown.py Cooldowns._barring": "as _until",
    "client/diagnosis.py Diagnosis._contradicted": HOPS,
    "client/excess.py Excess._known": FOUND,
    "client/journal.py Journal.options": OWN,
    "client/pending.py Pending.farthest": HOPS,
    "client/pending.py Pending.queues": HOPS,
    "client/pending.py Pending.unlawful": HOPS,
    "client/questions.py Questions._prepared": HOPS,
    "client/questions.py Questions._recalled": HOPS,
    "client/questions.py Questions.reports": HOPS,
    "client/relief.py Relief._passed_over": HOPS,
    "client/relief.py Relief._passed_over_as_faster": HOPS,
    "client/roster.py Roster._excused": FOUND,
    "client/roster.py Roster.peers": FOUND,
    "client/roster.py Roster.round_trips": FOUND,
    "client/routing.py Atlas.places": FOUND,
    "client/session.py ChainSession._verdicts": "rounds that are on their way",
    "client/session.py ChainSession.accused": HOPS,
    "client/session.py ChainSession.faults": HOPS,
    "client/session.py ChainSession.leaving": HOPS,
    "client/streams.py HopStreams._ends": HOPS,
    "client/target.py Target._measuring": FOUND,
    "client/target.py Target._tried": FOUND,
    "peer/compute.py Engine._parts": "as many parts of the stage (_MAX_PARTS)",
    "peer/compute.py Engine._uses": "as _parts",
    "peer/compute.py Job.views": "drafts of one round (MAX_DRAFTS)",
    "peer/dials.py Dials._reached": "checked here",
    "peer/early.py EarlyResults._held": "checked here",
    "peer/early.py EarlyResults._of": "as _held",
    "peer/early.py EarlyResults._senders": "as _held",
    "peer/early.py EarlyResults._sessions": "as _held",
    "peer/introductions.py Introductions._checked": "checked here",
    "peer/links.py Link._waiting": SESSIONS,
    "peer/links.py Link.flows": SESSIONS,
    "peer/links.py Links._closing": "links that are being closed, which takes no time",
    "peer/links.py Links._copies": SESSIONS,
    "peer/links.py Links._links": "two for each session, and those that were used half a minute ago (MAX_LINKS)",
    "peer/links.py Links._results": SESSIONS,
    "peer/packer.py Packer._learnt": "forms of hidden states",
    "peer/queue.py Queue._decoded": SESSIONS,
    "peer/queue.py Queue._waiting": SESSIONS,
    "peer/queue.py Queue.num_bytes": SESSIONS,
    "peer/rounds.py Rounds._unproven": SESSIONS,
    "peer/sent.py Sent._read": "what is being passed on again of one session: to two neighbours",
    "peer/sent.py SentStore._clients": SESSIONS,
    "peer/sent.py SentStore._logs": SESSIONS,
    "peer/service.py PeerService._replies": SESSIONS,
    "peer/session.py Session.walks": "the newest rounds of one session",
    "peer/shares.py Shares._had": "checked here",
    "peer/shares.py Turns._sessions": "clients that want something: sessions",
    "peer/standing.py Standing._served": "checked here",
    "peer/table.py SessionTable._reserved": SESSIONS,
    "peer/table.py SessionTable._sessions": SESSIONS,
    "peer/views.py Told._views": "drafts of one round (MAX_DRAFTS)",
    "specswarm/drafting.py DraftingService._running": "texts that are drafted here (max_generations)",
    "specswarm/processes.py Program.ready": OWN,
    "swarm/ages.py Ages._newest": "checked here",
    "swarm/awake.py Clock._deadlines": "timeouts that run: tasks",
    "swarm/calls.py DhtNode._answered": "checked in test_dht: _MAX_NODES",
    "swarm/calls.py DhtNode._callers": "checked in test_dht: _MAX_NODES",
    "swarm/calls.py DhtNode._silent": "nodes that were asked in the last minutes, a few at a time",
    "swarm/clocks.py Clocks._voices": "checked here",
    "swarm/complaints.py Complaints._lines": "kinds of complaints",
    "swarm/complaints.py Complaints._offences": "checked here",
    "swarm/daemon.py Daemon._serving": STREAMS,
    "swarm/dht.py Search._met": "nodes that one look-up is told of in 7 s, of each answer NEAREST",
    "swarm/dht.py Search._waiting": "as _met",
    "swarm/directory.py Directory._others": "keys that this node looks up",
    "swarm/directory.py Directory._seen": "keys that this node looks up",
    "swarm/drafting/model.py DraftModel._calibrations": "checked here",
    "swarm/drafting/ngram.py Repeats._places": TEXT,
    "swarm/drafting/sparse.py SparseDrafter._proofs": TEXT,
    "swarm/incoming.py IncomingStreams._due": "of streams that are open, and of a while before",
    "swarm/incoming.py IncomingStreams._guests": "checked here",
    "swarm/libp2p.py Libp2pNetwork._known": "checked here: _note_last",
    "swarm/libp2p.py Libp2pNetwork._reached": "checked here: _note_last",
    "swarm/libp2p.py Libp2pNetwork._relays": "initial peers",
    "swarm/memory.py MemoryNetwork._nodes": OWN,
    "swarm/memory.py MemoryNetwork._records": OWN,
    "swarm/memory.py MemoryTransport._handlers": OWN,
    "swarm/memory.py MemoryTransport._tasks": OWN,
    "swarm/memory.py MemoryTransport.streams": OWN,
    "swarm/model/attention.py Segment._views": "layers",
    "swarm/model/checkpoint.py _Span._targets": OWN,
    "swarm/model/flat.py _Writer._known": OWN,
    "swarm/model/flat.py _Writer._lasting": OWN,
    "swarm/shelf.py Shelf._origins": "records that are kept",
    "swarm/ranges.py Ranges._known": "checked here",
    "swarm/rates.py Rates._full_at": "checked here",
    "swarm/relay.py Relay._reserved": "checked here",
    "swarm/shelf.py Shelf._keys": "checked here",
    "swarm/speculation/flight.py Flight._children": TEXT,
}


def mappings() -> Iterator[str]:
    """The mappings and sets that objects of the programs hold, as `file class.attribute`."""
    for package in ("swarm", "peer", "client", "specswarm"):
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
                for name in _held_by(kind):
                    yield f"{path.relative_to(ROOT)} {kind.name}.{name}"


def _held_by(kind: ast.ClassDef) -> Iterator[str]:
    for node in ast.walk(kind):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if not _is_mapping(value):
            continue
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
            yield target.attr
        elif isinstance(target, ast.Name) and node in kind.body:
            yield target.id


def _is_mapping(value: ast.expr) -> bool:
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        return any(_is_kind(one.value) for one in value.keywords if one.arg == "default_factory")
    if isinstance(value, ast.Call):
        return _is_kind(value.func)
    return isinstance(value, ast.Dict | ast.DictComp | ast.Set | ast.SetComp)


def _is_kind(function: ast.expr) -> bool:
    return ast.unparse(function).split("[")[0].split(".")[-1] in KINDS


def test_every_mapping_is_named_here_with_what_bounds_it() -> None:
    assert sorted(set(mappings())) == sorted(BOUNDED_BY)


Flood = Callable[[], tuple[int, int]]
"""Does what many strangers would, and gives how much is held then, and how much may be."""


def cooldowns() -> tuple[int, int]:
    held = Cooldowns()
    for i in range(3000):
        held.note(PeerLost(f"peer {i}", "gone"))
    assert held._pause.keys() == held._until.keys()
    return len(held._until), 1024


def rates_() -> tuple[int, int]:
    held = Rates(10, lambda: 0.0)
    for i in range(3 * rates._MOST):
        held.note(f"client {i}")
    return len(held._full_at), rates._MOST


def standing_() -> tuple[int, int]:
    held = Standing(lambda: 0.0)
    for i in range(3 * standing._MOST):
        held.note(f"client {i}", 1.0)
    return len(held._served), standing._MOST


def shares_() -> tuple[int, int]:
    held, turns = Shares[str](), Turns()
    for i in range(3 * shares._MOST):
        held.charge({"poor": 0.0, f"client {i}": 1.0 + i})
        turns.charge({(f"client {i}", b"session"): 1.0})
        turns.keep([f"client {i}"])
    assert len(turns._sessions) == 1
    return len(held._had), shares._MOST


def complaints_() -> tuple[int, int]:
    held = Complaints(lambda: 0.0)
    for i in range(3 * MAX_COMPLAINTS):
        held.about("nonsense", f"node {i}", "nonsense")
    assert len(held.recent) == MAX_COMPLAINTS
    return len(held._offences), complaints.MAX_COMPLAINTS


def introductions_() -> tuple[int, int]:
    held = Introductions("f" * 64, clock=lambda: 0.0)
    for i in range(3 * introductions._KEPT):
        held.neighbour(introduction(f"peer {i}"))
    return len(held._checked), introductions._KEPT


def dials_() -> tuple[int, int]:
    held = Dials(lambda client: True)
    for i in range(3 * dials._MAX_REACHED):
        held.note_reached(Contact(f"peer {i}", (f"/ip4/10.0.0.{i % 256}/tcp/1",)))
    return len(held._reached), dials._MAX_REACHED


def early_results() -> tuple[int, int]:
    held = EarlyResults(max_bytes=100_000, clock=lambda: 0.0)
    for i in range(1000):
        held.hold(
            Hidden(Round(i.to_bytes(16, "big"), 0, 0, (1,), 0, True), 1, "float32", b"", ()), f"peer {i % 50}"
        )
    assert held._senders.total() <= 100_000
    assert len(held._senders) <= len(held._held) == len(held._sessions)
    return len(held._held), 100_000 // early.size_of(
        Hidden(Round(bytes(16), 0, 0, (1,), 0, True), 1, "float32", b"", ())
    )


def ages_() -> tuple[int, int]:
    held = Ages(lambda: 0.0)
    for i in range(2 * ages.MAX_PEERS):
        held.age(f"peer {i}", 1.0)
    return len(held._newest), ages.MAX_PEERS


def clocks_() -> tuple[int, int]:
    held = Clocks(lambda: 0.0)
    for i in range(3 * clocks._MAX_VOICES):
        held.note(f"node {i}", 1.0)
    return len(held._voices), clocks._MAX_VOICES


def shelf_() -> tuple[int, int]:
    held = Shelf(lambda: 0.0)
    for i in range(shelf.MAX_RECORDS + 100):
        held.put((i % 100).to_bytes(20, "big"), f"peer {i}", b"record", 1.0, 60.0)
    assert len(held._keys) <= shelf.MAX_KEYS
    return sum(map(len, held._keys.values())), shelf.MAX_RECORDS


def relay_() -> tuple[int, int]:
    async def run() -> int:
        held = Relay(lambda *_: asyncio.sleep(0), clock=lambda: 0.0)  # type: ignore[arg-type]

        class Writer:
            def __getattr__(self, _: str) -> Any:
                return lambda *_: None

            async def drain(self) -> None:
                return

        for i in range(2 * relay.MAX_RESERVED):
            reader = asyncio.StreamReader()
            reader.feed_eof()
            await held._reserve(PeerID(i.to_bytes(34, "big")), (reader, Writer()))  # type: ignore[arg-type]
        return len(held._reserved)

    return asyncio.run(run()), relay.MAX_RESERVED


def incoming_streams() -> tuple[int, int]:
    held = IncomingStreams(max_streams=10)
    with ExitStack() as stack:
        for i in range(50):
            stack.enter_context(held.taken_by(f"node {i}", "host", close=lambda: None))
        return len(held._guests), 10


def ranges_() -> tuple[int, int]:
    held = Ranges[str]()
    for i in range(3 * ranges._MOST):
        held.note(f"node {i}", "04c000")
    return len(held._known), ranges._MOST


def calibrations() -> tuple[int, int]:
    held = DraftModel(SimpleNamespace(new_cache=dict))  # type: ignore[arg-type]
    for i in range(3 * drafting._MAX_KINDS):
        held.drafter(100, Sampling(temperature=0.1 + i / 100), 1)
    return len(held._calibrations), drafting._MAX_KINDS


def noted_last() -> tuple[int, int]:
    held: dict[str, int] = {}
    for i in range(30):
        _note_last(held, f"node {i}", i, 10)
    return len(held), 10


FLOODS: list[Flood] = [
    cooldowns,
    rates_,
    standing_,
    shares_,
    complaints_,
    introductions_,
    dials_,
    early_results,
    ages_,
    clocks_,
    shelf_,
    relay_,
    incoming_streams,
    ranges_,
    calibrations,
    noted_last,
]


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__.rstrip("_"))
def test_strangers_fill_it_up_to_its_bound(flood: Flood, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introductions, "is_genuine", lambda *_: True)
    held, most = flood()
    assert most / 3 < held <= most


def test_a_peer_that_is_not_found_any_more_is_forgotten() -> None:
    held = Excess(lambda: 0.0)
    held.note(["a", "b"], 1.0)
    held.keep(["b"])
    assert set(held._known) == {"b"}
