"""A private swarm: who holds its key is a member; whoever does not learns no more than that he is refused.

The key itself never crosses the network. A node shows a badge, a code made from the key and its own peer id
(HMAC-SHA256, RFC 2104), and the transport proves the peer id: to whoever sees it, a badge is worth nothing. Records are
signed together with a secret made from the key, so only members can publish some, and only members can check them.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from swarm.config import expanded
from swarm.errors import UsageError
from swarm.user_files import read_bytes

REFUSAL = "not a member of this swarm"

_KEY_BYTES = 32


class Membership:
    """Which swarm a node belongs to: the one of a key or, without one, the public one."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key

    @classmethod
    def read(cls, path: Path | None) -> Membership:
        """From a key file; PUBLIC if there is none to read. Raises UsageError for a file that holds no key."""
        if path is None:
            return PUBLIC
        try:
            key = bytes.fromhex(read_bytes(path).decode("ascii"))
        except OSError as error:
            raise UsageError(f"swarm key {path}: {error.strerror}; `specswarm key FILE` makes one") from None
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise UsageError(f"{path} is no swarm key: `specswarm key FILE` makes one")
        return cls(key)

    @property
    def is_private(self) -> bool:
        """Whether there is a key."""
        return self._key is not None

    def badge(self, peer_id: str) -> bytes:
        """What the node of that id shows to other members; empty in the public swarm."""
        return self._code(b"specswarm badge 1:" + peer_id.encode())

    def admits(self, peer_id: str, badge: bytes) -> bool:
        """Whether that is the badge of this node, whose id the transport has proven."""
        return hmac.compare_digest(self.badge(peer_id), badge)

    @property
    def records_secret(self) -> bytes:
        """What signatures of records cover as well; empty in the public swarm."""
        return self._code(b"specswarm records 1")

    def _code(self, text: bytes) -> bytes:
        return hmac.digest(self._key, text, "sha256") if self._key is not None else b""


PUBLIC = Membership()
"""Everybody's."""

KeyFile = Annotated[Path | None, AfterValidator(lambda path: path and expanded(path))]
"""A swarm key's file in a configuration."""


def make_key(path: Path) -> None:
    """A new key in a new file, for its owner alone to read. Raises UsageError if it cannot be made there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} is there already: a swarm's key is made once and handed to its members") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; choose another file") from None
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
    except OSError as error:
        path.unlink()  # half a key would be in the way of a whole one
        raise UsageError(f"{path}: {error.strerror}; choose another file") from None
