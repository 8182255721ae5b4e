"""Whom clients may have a peer dial: peers of its model and swarm, by what these have signed themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from peer.introductions import _KEPT, MAX_AGE, Introductions
from peer.session import LEAST_CHUNK, Neighbour, Refusal
from swarm import records
from swarm.identity import Identity
from swarm.membership import Membership
from swarm.records import Announcement
from swarm.wire import Contact, Introduction
from tests.test_records import announcement

FINGERPRINT = "a" * 64
NOW = 2e9


@pytest.fixture(scope="module")
def next_peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Identity]:
    with Identity.hold(tmp_path_factory.mktemp("keys") / "next.key") as held:
        yield held


def introductions(now: float = NOW, **changes: Any) -> Introductions:
    return Introductions(**({"fingerprint": FINGERPRINT, "clock": lambda: now} | changes))


def signed(identity: Identity, **changes: Any) -> Introduction:
    found = records.read(records.sign(announcement(identity.peer_id, **changes), identity))
    assert isinstance(found, Announcement)
    return found.introduction


def test_a_peer_is_where_it_has_signed_however_often_that_is_shown(next_peer: Identity) -> None:
    said, known = announcement(next_peer.peer_id), introductions()
    shown = signed(next_peer)
    assert [known.neighbour(shown) for _ in range(3)] == [Neighbour(said.contact, said.max_round)] * 3


def test_peers_of_other_models_and_swarms_are_not_dialled(next_peer: Identity) -> None:
    shown = signed(next_peer)
    for elsewhere in (introductions(fingerprint="c" * 64), introductions(swarm=Membership(bytes(32)))):
        with pytest.raises(Refusal, match="has not said itself where it serves this model"):
            elsewhere.neighbour(shown)


def test_peers_of_another_version_are_not_dialled(next_peer: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "PROTOCOL", 99)
    shown = signed(next_peer, protocol=99)
    monkeypatch.undo()
    with pytest.raises(Refusal, match="has not said itself"):
        introductions().neighbour(shown)


def test_what_the_peer_has_not_signed_is_no_address(next_peer: Identity, tmp_path: Path) -> None:
    shown = signed(next_peer)
    with Identity.hold(tmp_path / "other.key") as other:
        others = signed(other)
    elsewhere = ("/ip4/127.0.0.2/tcp/4001",)
    for forged in (
        replace(shown, contact=Contact(next_peer.peer_id, elsewhere)),
        replace(shown, contact=Contact(other.peer_id, shown.contact.maddrs)),
        replace(shown, max_round=1),
        replace(shown, issued=shown.issued + 1),
        replace(shown, digest=others.digest),
        replace(shown, signature=others.signature),
        announcement(next_peer.peer_id).introduction,
    ):
        with pytest.raises(Refusal, match="has not said itself"):
            introductions().neighbour(forged)


def test_a_word_of_long_ago_is_no_address_but_of_the_peer_that_is_next_already(next_peer: Identity) -> None:
    now = NOW
    known, shown = introductions(clock=lambda: now), signed(next_peer)
    known.neighbour(shown)
    now += MAX_AGE
    with pytest.raises(Refusal, match=r"was 864\d\d s old"):
        known.neighbour(shown)
    assert known.neighbour(shown, shown.contact).contact == shown.contact


def test_no_more_are_remembered_than_said(next_peer: Identity) -> None:
    known = introductions()
    for i in range(_KEPT + 10):
        known.neighbour(signed(next_peer, free_tokens=i))
    assert len(known._checked) == _KEPT


@pytest.mark.parametrize(
    ("wanted", "max_round", "given"), [(1, 512, LEAST_CHUNK), (100, 512, 100), (1, 3, 3), (600, 512, 600)]
)
def test_nobody_has_a_text_passed_on_token_by_token_to_a_peer_that_takes_more(
    wanted: int, max_round: int, given: int
) -> None:
    assert Neighbour(Contact("next"), max_round).chunk(wanted) == given
