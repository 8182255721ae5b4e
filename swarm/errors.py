"""Everything that can go wrong, and whose fault it is.

SpecswarmError
├── UsageError         the person at the keyboard: a wrong option, folder, file or address (exit code 2)
├── ModelUnsupported   the model: its family cannot be served exactly
├── SwarmUnreachable   the network: no initial peer answers
│   ├── LookupFailed   nobody answers what is to be found in the directory: that is no "nobody"
│   └── DaemonEnded    this program's own network daemon has ended: nothing is heard of anybody any more
├── ChainLost          the swarm: nobody serves some layers; names them
├── PeerError          one other node; `peer_id` says which
│   ├── PeerLost       it went silent, or its stream broke
│   ├── PeerRefused    it answered, and said no
│   └── PeerLied       others, given the same, compute something else
└── BadMessage         a stranger sent something that is no message; never ours

A bug of our own is none of these: it stays the Python exception it is, and blames nobody.
"""

from __future__ import annotations

from typing import Literal

from swarm.foreign import printable

MAX_REASON = 1024  # characters that one node is told of what went wrong at another
_MAX_TEXT = 8192  # characters of an error: libraries quote whole messages of strangers

Why = Literal["full", "model", "gone", "unlawful", "stranger", "rate", "leaving"]
"""Why a peer refuses: no room; not served here; no such session is open; against the session's law; not whom its owner
allows; too often lately; it is about to leave."""


class SpecswarmError(Exception):
    """Base of all errors that a user may see; the text is one line that says what to do.

    It may quote anything, names of files and what libraries say of strangers' bytes included: it is made printable, and
    cut where it is very long.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text, _MAX_TEXT))


class UsageError(SpecswarmError):
    """The command or the call cannot be carried out as given."""


class ModelUnsupported(SpecswarmError):
    """A model that cannot be served exactly; the text says why."""


class SwarmUnreachable(SpecswarmError):
    """No initial peer could be reached, or the local network daemon could not start."""


class LookupFailed(SwarmUnreachable):
    """A question to the directory was not answered, or not to the end: whether there is what it asks for, is open."""


class DaemonEnded(SwarmUnreachable):
    """This program's own network daemon has ended: only a new start helps."""

    def __init__(self) -> None:
        super().__init__("the network daemon has ended: start this program again")


class ChainLost(SpecswarmError):
    """The known peers cannot cover every layer of the model."""


class PeerError(SpecswarmError):
    """Trouble with one other node of the swarm."""

    def __init__(self, peer_id: str, reason: str) -> None:
        super().__init__(f"peer {peer_id}: {printable(reason, MAX_REASON)}")
        self.peer_id = peer_id
        self.reason = printable(reason, MAX_REASON)


class PeerLost(PeerError):
    """The peer went silent or its stream broke; another may do its work."""


class PeerRefused(PeerError):
    """The peer answered that it will not do this; `why` is for programs."""

    def __init__(self, peer_id: str, why: Why, reason: str) -> None:
        super().__init__(peer_id, reason)
        self.why = why


class PeerLied(PeerError):
    """What the peer has computed is not what others compute; nothing of it is to be used any more."""


class BadMessage(SpecswarmError):
    """Bytes from a stranger that are not a well-formed message."""
