"""Who a node is: one Ed25519 key in one file.

The libp2p daemon reads the same file, and the peer id it derives (`12D3Koo...`) contains the public key itself. So a
signature under a peer id can be checked by anyone, with nothing but the peer id: records certify themselves.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hivemind.p2p import PeerID
from hivemind.proto import crypto_pb2

from swarm.errors import UsageError
from swarm.user_files import read_bytes

PEER_KEY = Path("~/.config/specswarm/peer.key")
"""Of a peer that is given no other."""

# An Ed25519 peer id is the key itself, in a multihash of kind "identity" around libp2p's PublicKey message.
_PEER_ID_PREFIX = bytes.fromhex("002408011220")


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's key pair, and the file where the daemon finds it."""

    path: Path
    key: Ed25519PrivateKey

    @classmethod
    @contextmanager
    def hold(cls, path: Path) -> Iterator[Identity]:
        """Read the identity file, or make one (mode 0600) on first use, and keep other processes off it.

        Raises UsageError if the file cannot be read, written or parsed, or if another process holds it.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"identity file {path}: {error.strerror}; choose another with --identity") from None
        try:
            _lock(descriptor, path)
            if os.fstat(descriptor).st_size == 0:
                _write(descriptor, path, _to_file(Ed25519PrivateKey.generate()))
            yield cls(path, _from_file(path))
        finally:
            os.close(descriptor)

    @classmethod
    def read(cls, path: Path) -> Identity:
        """That of a node which may be running. Raises UsageError if the file is none."""
        try:
            return cls(path, _from_file(path))
        except UsageError:
            raise UsageError(f"{path} is no Ed25519 identity file: name that of your own peer") from None

    @property
    def peer_id(self) -> str:
        """The libp2p peer id, base58."""
        public = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return str(PeerID(_PEER_ID_PREFIX + public).to_base58())

    def sign(self, payload: bytes) -> bytes:
        """The 64-byte signature that `verify` accepts under this node's peer id."""
        return self.key.sign(payload)


def verify(peer_id: str, payload: bytes, signature: bytes) -> bool:
    """Whether `signature` over `payload` was made by the key inside `peer_id`."""
    try:
        encoded = PeerID.from_base58(peer_id).to_bytes()
        if len(encoded) != len(_PEER_ID_PREFIX) + 32 or not encoded.startswith(_PEER_ID_PREFIX):
            return False
        Ed25519PublicKey.from_public_bytes(encoded[len(_PEER_ID_PREFIX) :]).verify(signature, payload)
    except (ValueError, InvalidSignature):
        return False
    return True


def _lock(descriptor: int, path: Path) -> None:
    """Keep other processes off the file until it is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"identity file {path} is in use by another node: give each its own --identity") from None


def _write(descriptor: int, path: Path, data: bytes) -> None:
    """All of it, or nothing."""
    try:
        if os.write(descriptor, data) < len(data):
            os.ftruncate(descriptor, 0)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise UsageError(f"identity file {path}: {error.strerror}; choose another with --identity") from None


def _to_file(key: Ed25519PrivateKey) -> bytes:
    """libp2p's PrivateKey message: the 32 secret bytes, then the 32 public ones."""
    secret = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    message = crypto_pb2.PrivateKey(key_type=crypto_pb2.KeyType.Ed25519, data=secret + public)
    return bytes(message.SerializeToString())


def _from_file(path: Path) -> Ed25519PrivateKey:
    message = crypto_pb2.PrivateKey()
    try:
        message.ParseFromString(read_bytes(path))
        if message.key_type != crypto_pb2.KeyType.Ed25519 or len(message.data) != 64:
            raise ValueError
    except (DecodeError, ValueError, OSError) as error:
        raise UsageError(f"{path} is no Ed25519 identity file: move it away, and a new one is made") from error
    return Ed25519PrivateKey.from_private_bytes(message.data[:32])
