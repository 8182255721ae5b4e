"""The directory over a store that takes anything from anybody: only what is true, alive and asked for comes out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm import PROTOCOL, records
from swarm.ages import Ages
from swarm.directory import INDEX_KEY, Directory, accepts, keys_of, model_key, other_versions
from swarm.errors import BadMessage
from swarm.identity import Identity
from swarm.memory import MemoryNetwork
from swarm.records import Announcement

NOW = 1_000_000.0
MODEL, OTHER = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Identity]]:
    folder: Path = tmp_path_factory.mktemp("keys")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Identity.hold(folder / f"{i}.key")) for i in range(4)]


def announcement(identity: Identity, fingerprint: str = MODEL, **changes: Any) -> Announcement:
    return Announcement.model_validate(
        {
            "peer_id": identity.peer_id,
            "maddrs": (),
            "model": "the/same-name",
            "fingerprint": fingerprint,
            "config_hash": "c" * 64,
            "num_layers": 8,
            "start": 0,
            "end": 4,
            "dtype": "float32",
            "quantize": None,
            "draft_seconds": None,
            "step_seconds": 0.01,
            "token_seconds": 0.001,
            "load": 0.25,
            "free_tokens": 100,
            "max_round": 512,
            "links": {},
            "version": "0",
            "started": 0,
            "lifetime": 60,
            "expires": NOW + 60,
            **changes,
        }
    )


class Place:
    """A store, and a directory on it, whose clocks are set by hand."""

    def __init__(self) -> None:
        self.now = NOW
        self.store = MemoryNetwork(lambda: self.now)
        self.directory = self.seen_by()

    def seen_by(self, clock_ahead: float = 0.0) -> Directory:
        """The directory of a node that knows nothing yet, whose clock is wrong by so much."""
        directory = Directory(self.store, clock=lambda: self.now + clock_ahead)
        directory._ages = Ages(lambda: self.now)
        return directory

    def publish(self, announcement: Announcement, identity: Identity) -> bool:
        return asyncio.run(self.directory.publish(announcement, identity))

    def withdraw(self, announcement: Announcement, identity: Identity) -> None:
        asyncio.run(self.directory.withdraw(announcement, identity))

    def put(self, key: str, subkey: str, value: bytes) -> None:
        """What anybody may do to a store that checks nothing."""
        asyncio.run(self.store.put([key], subkey, value, lambda _: None))

    def peers_of(self, fingerprint: str = MODEL) -> list[Announcement]:
        return asyncio.run(self.directory.peers_of(fingerprint))

    def all_peers(self) -> list[Announcement]:
        return asyncio.run(self.directory.all_peers())


@pytest.fixture
def place() -> Place:
    return Place()


def test_published_announcement_is_found(place: Place, identities: list[Identity]) -> None:
    offer = announcement(identities[0])
    assert place.peers_of() == place.all_peers() == []
    assert place.publish(offer, identities[0])
    assert place.peers_of() == place.all_peers() == [offer]


def test_peers_come_in_order_of_their_layers(place: Place, identities: list[Identity]) -> None:
    spans = [(4, 8), (0, 6), (0, 2), (4, 5)]
    for identity, (start, end) in zip(identities, spans, strict=True):
        place.publish(announcement(identity, start=start, end=end), identity)
    assert [(found.start, found.end) for found in place.peers_of()] == sorted(spans)


def test_two_models_of_one_name_never_mix(place: Place, identities: list[Identity]) -> None:
    ours, theirs = announcement(identities[0]), announcement(identities[1], OTHER)
    assert ours.model == theirs.model
    place.publish(ours, identities[0])
    place.publish(theirs, identities[1])
    assert place.peers_of(MODEL) == [ours]
    assert place.peers_of(OTHER) == [theirs]
    assert {found.fingerprint for found in place.all_peers()} == {MODEL, OTHER}


def test_record_stored_under_another_models_key_is_ignored(place: Place, identities: list[Identity]) -> None:
    theirs = announcement(identities[1], OTHER)
    place.put(model_key(MODEL), theirs.peer_id, records.sign(theirs, identities[1]))
    assert place.peers_of(MODEL) == []


def test_announcement_vanishes_at_the_end_of_its_life(place: Place, identities: list[Identity]) -> None:
    brief, lasting = announcement(identities[0], lifetime=30), announcement(identities[1])
    place.publish(brief, identities[0])
    place.publish(lasting, identities[1])
    place.now = NOW + 29
    assert len(place.peers_of()) == 2
    place.now = NOW + 30
    assert place.peers_of() == place.all_peers() == [lasting]


WRONG = (-600, -90, -35, 0, 35, 90, 600)


@pytest.mark.parametrize("peer_ahead", WRONG)
@pytest.mark.parametrize("reader_ahead", WRONG)
def test_peer_lives_as_long_as_it_says_by_whatever_clocks(
    peer_ahead: float, reader_ahead: float, place: Place, identities: list[Identity]
) -> None:
    offer = announcement(identities[0], lifetime=45, expires=NOW + 45 + peer_ahead)
    place.publish(offer, identities[0])
    early, late = place.seen_by(reader_ahead), place.seen_by(reader_ahead)
    for seconds, is_there in ((0, True), (44, True), (45, False)):
        place.now = NOW + seconds
        assert bool(asyncio.run(early.peers_of(MODEL))) == is_there
    place.now = NOW + 44
    [found] = asyncio.run(late.look())
    assert (found.said, found.age, found.ahead) == (offer, 44, peer_ahead - reader_ahead)
    place.now = NOW + 45
    assert asyncio.run(late.look()) == []


def test_record_that_no_two_clocks_can_differ_by_is_ignored(place: Place, identities: list[Identity]) -> None:
    for ahead in (-1_300.0, 1_300.0):
        place.publish(announcement(identities[0], expires=NOW + 60 + ahead), identities[0])
        assert place.all_peers() == []


def test_dead_peers_record_is_not_made_younger_by_whoever_brings_it(
    place: Place, identities: list[Identity]
) -> None:
    offer = announcement(identities[0])
    record = records.sign(offer, identities[0])
    place.publish(offer, identities[0])
    assert place.all_peers() == [offer]
    for _ in range(10):
        place.now += 30
        place.store._records.clear()
        place.put(INDEX_KEY, offer.peer_id, record)  # says that it has just come
        assert place.all_peers() == ([offer] if place.now < NOW + 60 else [])
    place.now = NOW + 1_300
    place.store._records.clear()
    place.put(INDEX_KEY, offer.peer_id, record)
    assert asyncio.run(place.seen_by().all_peers()) == []  # nor by those who have never seen it, after that long


def test_node_that_is_cut_off_goes_on_with_what_it_saw_until_that_ends(
    place: Place, identities: list[Identity]
) -> None:
    offer = announcement(identities[0])
    place.publish(offer, identities[0])
    assert place.peers_of() == [offer]
    place.store._records.clear()
    place.now = NOW + 59
    assert place.peers_of() == [offer]
    place.now = NOW + 60
    assert place.peers_of() == []


def test_withdrawn_announcement_vanishes_alone(place: Place, identities: list[Identity]) -> None:
    leaver, stayer = announcement(identities[0]), announcement(identities[1])
    place.publish(leaver, identities[0])
    place.publish(stayer, identities[1])
    place.withdraw(leaver, identities[0])
    assert place.peers_of() == place.all_peers() == [stayer]


def test_joining_peer_is_found_only_by_who_asks_for_it(place: Place, identities: list[Identity]) -> None:
    serving, joining = announcement(identities[0]), announcement(identities[1], state="joining")
    place.publish(serving, identities[0])
    place.publish(joining, identities[1])
    assert place.peers_of() == place.all_peers() == [serving]
    both = asyncio.run(place.directory.peers_of(MODEL, joining=True))
    assert {found.peer_id for found in both} == {serving.peer_id, joining.peer_id}
    place.withdraw(joining, identities[1])
    assert asyncio.run(place.directory.peers_of(MODEL, joining=True)) == [serving]


def test_old_announcement_put_back_after_leaving_stays_away(place: Place, identities: list[Identity]) -> None:
    leaver = announcement(identities[0])
    place.publish(leaver, identities[0])
    place.withdraw(leaver, identities[0])
    for key in keys_of(leaver):
        place.put(key, leaver.peer_id, records.sign(leaver, identities[0]))
    assert place.peers_of() == place.all_peers() == []


def test_peer_that_left_can_come_back(place: Place, identities: list[Identity]) -> None:
    first, again = announcement(identities[0]), announcement(identities[0], expires=NOW + 62)
    place.publish(first, identities[0])
    place.withdraw(first, identities[0])
    place.publish(again, identities[0])
    assert place.peers_of() == [again]


def test_newer_announcement_replaces_the_older(place: Place, identities: list[Identity]) -> None:
    place.publish(announcement(identities[0]), identities[0])
    renewed = announcement(identities[0], free_tokens=7, expires=NOW + 61)
    place.publish(renewed, identities[0])
    assert place.peers_of() == place.all_peers() == [renewed]


def test_record_under_another_peers_subkey_is_ignored(place: Place, identities: list[Identity]) -> None:
    offer = announcement(identities[0])
    for subkey in (identities[1].peer_id, "", "somebody"):
        place.put(model_key(MODEL), subkey, records.sign(offer, identities[0]))
    assert place.peers_of() == []


def test_forged_record_is_ignored(place: Place, identities: list[Identity]) -> None:
    offer = announcement(identities[0])
    place.put(model_key(MODEL), offer.peer_id, records.sign(offer, identities[1]))
    assert place.peers_of() == []


def test_nonsense_hides_nobody(place: Place, identities: list[Identity]) -> None:
    offer = announcement(identities[0])
    place.publish(offer, identities[0])
    for i, nonsense in enumerate((b"", b"x" * 200, b"\xff" * 100, b"{}" * 40)):
        for key in keys_of(offer):
            place.put(key, f"stranger {i}", nonsense)
    assert place.peers_of() == place.all_peers() == [offer]


def test_record_is_accepted_for_its_own_peer_alone(identities: list[Identity]) -> None:
    offer = announcement(identities[0])
    record = records.sign(offer, identities[0])
    assert accepts(record, offer.peer_id, now=NOW) == offer
    with pytest.raises(BadMessage):
        accepts(record, identities[1].peer_id, now=NOW)


@pytest.mark.parametrize("seconds", [1_261, 3600, 1e300, float("inf"), float("nan"), -1_261, -NOW])
def test_record_of_another_time_is_refused(seconds: float, identities: list[Identity]) -> None:
    lasting = announcement(identities[0], expires=NOW + 60 + 1_260)
    assert accepts(records.sign(lasting, identities[0]), lasting.peer_id, now=NOW) == lasting
    eternal = lasting.model_copy(update={"expires": NOW + 60 + seconds})
    with pytest.raises(BadMessage):
        accepts(records.sign(eternal, identities[0]), eternal.peer_id, now=NOW)


def of_version(protocol: int, identity: Identity, **changes: Any) -> Announcement:
    """An announcement that says it is of another protocol."""
    return announcement(identity, protocol=protocol, **changes)


def test_peers_of_other_versions_are_no_peers_and_are_told_of(place: Place, identities: list[Identity]) -> None:
    assert place.directory.trouble() == ""
    place.publish(of_version(PROTOCOL + 1, identities[0]), identities[0])
    place.publish(of_version(PROTOCOL + 2, identities[1]), identities[1])
    place.publish(of_version(PROTOCOL + 1, identities[2], fingerprint=OTHER), identities[2])
    place.publish(of_version(PROTOCOL + 3, identities[3], state="left"), identities[3])
    assert place.peers_of() == place.all_peers() == []
    newer = f"{PROTOCOL + 1}, {PROTOCOL + 2}"
    said = f"another version of the protocol (theirs {{}}, ours {PROTOCOL}): update specswarm here"
    assert place.directory.trouble() == f"; 3 peers speak {said.format(newer)}"
    assert place.directory.trouble(MODEL) == f"; 2 peers speak {said.format(newer)}"
    assert place.directory.trouble(OTHER) == f"; 1 peer speaks {said.format(PROTOCOL + 1)}"
    assert place.directory.trouble("c" * 64) == place.directory.trouble()  # the same configuration
    assert place.directory.trouble("d" * 64) == ""
    place.now += 60
    assert place.peers_of() == place.all_peers() == []
    assert place.directory.trouble() == ""


def test_old_peers_are_told_to_be_brought_up_to_date(identities: list[Identity]) -> None:
    assert other_versions([of_version(PROTOCOL - 1, identities[0])]).endswith("update specswarm there")
    assert other_versions([]) == ""


@pytest.mark.parametrize(("ahead", "is_told"), [(500.0, False), (4000.0, True)])
def test_clock_that_is_too_wrong_is_told_of_where_somebody_is_missed(
    ahead: float, is_told: bool, place: Place
) -> None:
    for i in range(3):
        place.store.clocks.note(f"{i}", ahead)
    trouble = "; this machine's clock is 4000 s ahead of those of 3 other nodes: set it"
    assert place.directory.trouble() == (trouble if is_told else "")
