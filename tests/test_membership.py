"""Who belongs to a private swarm, and what its key file must be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm import records
from swarm.errors import BadMessage, UsageError
from swarm.identity import Identity
from swarm.membership import PUBLIC, Membership, make_key
from tests.test_records import announcement

OURS, THEIRS = Membership(bytes(32)), Membership(bytes(31) + b"\1")


@pytest.fixture
def identity(tmp_path: Path) -> Iterator[Identity]:
    with Identity.hold(tmp_path / "identity") as held:
        yield held


def test_a_badge_is_that_of_one_node_in_one_swarm() -> None:
    badge = OURS.badge("one")
    assert OURS.admits("one", badge)
    for swarm, peer_id in ((OURS, "other"), (THEIRS, "one"), (PUBLIC, "one")):
        assert not swarm.admits(peer_id, badge)
    assert not OURS.admits("one", b"")
    assert not OURS.admits("one", badge[:-1])


def test_the_public_swarm_wants_no_badge() -> None:
    assert PUBLIC.admits("one", PUBLIC.badge("one"))
    assert PUBLIC.badge("one") == b""


def test_a_badge_does_not_contain_the_key() -> None:
    key = bytes(range(32))
    assert key not in Membership(key).badge("one") + Membership(key).records_secret


def test_a_made_key_is_read_back_and_its_owner_s_alone(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    one, other = Membership.read(tmp_path / "key"), Membership.read(tmp_path / "key")
    assert one.is_private
    assert other.admits("peer", one.badge("peer"))


def test_two_made_keys_are_two_swarms(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_key(tmp_path / name)
    assert not Membership.read(tmp_path / "a").admits("peer", Membership.read(tmp_path / "b").badge("peer"))


def test_no_file_is_the_public_swarm() -> None:
    assert not Membership.read(None).is_private


@pytest.mark.parametrize("content", ["", "abc", "zz" * 32, "00" * 31, "00" * 33, "ä" * 64])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="is no swarm key"):
        Membership.read(tmp_path / "key")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none: No such file"):
        Membership.read(tmp_path / "none")


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    before = (tmp_path / "key").read_text()
    with pytest.raises(UsageError, match="there already"):
        make_key(tmp_path / "key")
    assert (tmp_path / "key").read_text() == before


@pytest.mark.parametrize("reader", [PUBLIC, THEIRS])
def test_a_record_counts_in_its_own_swarm_alone(identity: Identity, reader: Membership) -> None:
    offer = announcement(identity.peer_id)
    record = records.sign(offer, identity, OURS)
    assert records.read(record, OURS) == offer
    with pytest.raises(BadMessage, match="not signed"):
        records.read(record, reader)


def test_a_record_of_the_public_swarm_counts_in_no_private_one(identity: Identity) -> None:
    with pytest.raises(BadMessage, match="not signed"):
        records.read(records.sign(announcement(identity.peer_id), identity), OURS)
