"""Whom a peer limits, and why, is for its owner to see: for whoever has its key, wherever he asks from."""

from __future__ import annotations

import time

from swarm import awake
from swarm.errors import BadMessage, PeerLost
from swarm.identity import Identity, verify
from swarm.transport import Transport
from swarm.wire import SESSION_PROTOCOL, Complaint, Contact, Inspect, Inspected

_MAX_AGE = 600.0  # seconds, by two clocks


def request(owner: Identity, now: float) -> Inspect:
    """What asks the peer that runs with this identity; `now` in seconds since 1970."""
    return Inspect(now, owner.sign(_payload(owner.peer_id, now)))


def is_owners(message: Inspect, peer_id: str, now: float) -> bool:
    """Whether it is of the owner of this peer, and of late."""
    return abs(now - message.at) <= _MAX_AGE and verify(peer_id, _payload(peer_id, message.at), message.signature)


async def inspect(transport: Transport, peer: Contact, owner: Identity, seconds: float) -> tuple[Complaint, ...]:
    """What the owner's own peer says. Raises PeerLost if it does not answer in so many seconds."""
    try:
        async with awake.timeout(seconds):
            stream = await transport.open(peer, SESSION_PROTOCOL)
            try:
                await stream.send(request(owner, time.time()))
                while not isinstance(answer := await stream.receive(), Inspected):
                    pass
            finally:
                stream.close()
    except TimeoutError:
        raise PeerLost(peer.peer_id, "it does not say whom it limits") from None
    except BadMessage as error:
        raise PeerLost(peer.peer_id, f"it sends nonsense: {error}") from None
    return answer.complaints


def _payload(peer_id: str, at: float) -> bytes:
    return f"specswarm: whom does {peer_id} limit, at {at!r}?".encode()
