"""A node's identity: one file, one holder, a peer id that certifies itself."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from hivemind.p2p import PeerID
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import UsageError
from swarm.identity import Identity, verify
from swarm.libp2p import Libp2pNetwork


def test_identity_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "node.key"
    with Identity.hold(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_identity_is_the_same_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    with Identity.hold(path) as first:
        content, peer_id = path.read_bytes(), first.peer_id
    with Identity.hold(path) as second:
        assert second.peer_id == peer_id
        assert path.read_bytes() == content


def test_two_files_are_two_identities(tmp_path: Path) -> None:
    with Identity.hold(tmp_path / "a.key") as a, Identity.hold(tmp_path / "b.key") as b:
        assert a.peer_id != b.peer_id


def test_second_holder_is_refused_in_one_line_and_first_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    with Identity.hold(path) as first:
        content = path.read_bytes()
        with pytest.raises(UsageError, match="--identity") as refusal, Identity.hold(path):
            pass
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)
        assert path.read_bytes() == content
        assert verify(first.peer_id, b"still here", first.sign(b"still here"))


def test_identity_is_free_again_after_a_failure_inside(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    with pytest.raises(RuntimeError, match="inside"), Identity.hold(path):
        raise RuntimeError("inside")
    with Identity.hold(path):
        pass


def test_error_of_the_holder_is_not_taken_for_a_second_holder(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="a pipe is full"), Identity.hold(tmp_path / "node.key"):
        raise BlockingIOError("a pipe is full")


@pytest.mark.parametrize(
    "content",
    [b"garbage", b"\0" * 68, b"\x08\x01\x12\x03abc", b"\x08\x00\x12\x40" + b"x" * 64, b"-----BEGIN KEY-----\n" * 9],
    ids=["text", "zeros", "short key", "RSA", "PEM"],
)
def test_garbage_file_is_refused_and_kept(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(content)
    with pytest.raises(UsageError) as refusal, Identity.hold(path):
        pass
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert path.read_bytes() == content


def test_path_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path, tmp_path / "file" / "node.key", Path("/proc/nowhere/node.key")):
        with pytest.raises(UsageError) as refusal, Identity.hold(path):
            pass
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_peer_id_holds_the_public_key(tmp_path: Path) -> None:
    with Identity.hold(tmp_path / "node.key") as identity:
        assert identity.peer_id.startswith("12D3Koo")
        parsed = PeerID.from_base58(identity.peer_id)
        assert parsed.to_base58() == identity.peer_id
        assert parsed.to_bytes()[-32:] == identity.key.public_key().public_bytes_raw()


def test_daemon_derives_the_same_peer_id(tmp_path: Path) -> None:
    async def daemons_peer_id(identity: Identity) -> str:
        async with Libp2pNetwork.join(identity, host_maddrs=["/ip4/127.0.0.1/tcp/0"]) as network:
            return network.peer_id

    with Identity.hold(tmp_path / "node.key") as identity:
        assert asyncio.run(daemons_peer_id(identity)) == identity.peer_id


def test_verify_accepts_the_own_signature_alone(tmp_path: Path) -> None:
    with Identity.hold(tmp_path / "a.key") as a, Identity.hold(tmp_path / "b.key") as b:
        signature = a.sign(b"text")
        assert len(signature) == 64
        assert verify(a.peer_id, b"text", signature)
        assert not verify(b.peer_id, b"text", signature)
        assert not verify(a.peer_id, b"other text", signature)
        assert not verify(a.peer_id, b"text", b.sign(b"text"))
        for wrong in (b"", signature[:-1], signature + b"\0", bytes(64)):
            assert not verify(a.peer_id, b"text", wrong)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80) | st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", max_size=60))
def test_verify_takes_no_garbage_for_a_peer_id(peer_id: str) -> None:
    assert not verify(peer_id, b"text", bytes(64))


@pytest.mark.parametrize("peer_id", ["", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "12D3Koo", "\ud800"])
def test_verify_takes_no_other_kind_of_peer_id(peer_id: str) -> None:
    assert not verify(peer_id, b"text", bytes(64))
