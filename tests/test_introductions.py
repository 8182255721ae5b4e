"""Whom clients may have a peer dial: peers of its model and swarm, by what these have signed themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peer.introductions import _KEPT, MAX_AGE, Introductions
from peer.session import LEAST_CHUNK, Neighbour, Refusal
from swarm import records
from swarm.identity import Identity
from swarm.membership import Membership
from swarm.wire import Contact
from tests.test_records import announcement

FINGERPRINT = "a" * 64
NOW = 2e9


@pytest.fixture(scope="module")
def next_peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Identity]:
    with Identity.hold(tmp_path_factory.mktemp("keys") / "next.key") as held:
        yield held


def introductions(now: float = NOW, **changes: Any) -> Introductions:
    return Introductions(**({"fingerprint": FINGERPRINT, "clock": lambda: now} | changes))


def test_a_signed_record_says_where_a_peer_is_however_often_it_is_shown(next_peer: Identity) -> None:
    said, known = announcement(next_peer.peer_id), introductions()
    record = records.sign(said, next_peer)
    assert [known.neighbour(record) for _ in range(3)] == [Neighbour(said.contact, said.max_round)] * 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"fingerprint": "c" * 64}, "serves model cccccccccccc"), ({"protocol": 1}, "another version")],
)
def test_peers_of_other_models_and_versions_are_not_dialled(
    changes: dict[str, Any], reason: str, next_peer: Identity
) -> None:
    record = records.sign(announcement(next_peer.peer_id, **changes), next_peer)
    with pytest.raises(Refusal, match=reason):
        introductions().neighbour(record)


def test_what_nobody_has_signed_is_no_address(next_peer: Identity) -> None:
    record = records.sign(announcement(next_peer.peer_id), next_peer)
    for forged in (b"", b"next", bytes(64) + record[64:], record[:-1], record.replace(b"127.0.0.1", b"127.0.0.2")):
        with pytest.raises(Refusal, match="has not said where it is"):
            introductions().neighbour(forged)


def test_a_peer_of_another_swarm_is_not_dialled(next_peer: Identity, tmp_path: Path) -> None:
    record = records.sign(announcement(next_peer.peer_id), next_peer)
    with pytest.raises(Refusal, match="has not said where it is"):
        introductions(swarm=Membership(bytes(32))).neighbour(record)


def test_a_record_of_long_ago_is_no_address_though_it_was_read_before(next_peer: Identity) -> None:
    now = NOW
    known, record = introductions(clock=lambda: now), records.sign(announcement(next_peer.peer_id), next_peer)
    known.neighbour(record)
    now += MAX_AGE
    with pytest.raises(Refusal, match=r"is 864\d\d s old"):
        known.neighbour(record)


def test_no_more_are_remembered_than_said(next_peer: Identity) -> None:
    known = introductions()
    for i in range(_KEPT + 10):
        known.neighbour(records.sign(announcement(next_peer.peer_id, free_tokens=i), next_peer))
    assert len(known._read) == _KEPT


@pytest.mark.parametrize(
    ("wanted", "max_round", "given"), [(1, 512, LEAST_CHUNK), (100, 512, 100), (1, 3, 3), (600, 512, 600)]
)
def test_nobody_has_a_text_passed_on_token_by_token_to_a_peer_that_takes_more(
    wanted: int, max_round: int, given: int
) -> None:
    assert Neighbour(Contact("next"), max_round).chunk(wanted) == given
