"""A peer that lies: the real one, on a network that changes what it says.

    python -m benchmarks.chaos.liar noise MODEL --layers 2:4 --initial-peer ...

is `specswarm join`, but for the lie; and it says that it is the fastest of all, so that everybody uses it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import torch

from peer import node
from specswarm import cli
from swarm import records
from swarm.incoming import Known, nobody
from swarm.packing import packed_size, unpack
from swarm.records import Announcement
from swarm.tensors import DTYPES, from_bytes, to_bytes
from swarm.transport import Handler, Network, Stream
from swarm.wire import AnyMessage, Contact, Generated, Hidden, Verdict

Lie = Callable[[AnyMessage], AnyMessage | None]
"""What a peer makes of a message before it sends it; nothing, if it keeps it to itself."""
Lies = Mapping[str, Lie]
"""By peer id."""

LATE_SECONDS = 1.0


class _Stream:
    """A stream of a peer that may lie."""

    def __init__(self, stream: Stream, speaker: str, lies: Lies) -> None:
        self._stream = stream
        self._speaker = speaker
        self._lies = lies

    async def send(self, *messages: AnyMessage) -> None:
        for message in messages:
            await self._send(message)

    def send_at_once(self, _: AnyMessage) -> bool:
        return False  # all goes by `send`

    async def _send(self, message: AnyMessage) -> None:
        lie = self._lies.get(self._speaker)
        said = lie(message) if lie else message
        if lie is late and isinstance(message, Hidden | Verdict):
            await asyncio.sleep(LATE_SECONDS)
        if said is not None:
            await self._stream.send(said)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Liar:
    """A node's network; what the node sends is changed by the lie under its peer id, while there is one."""

    def __init__(self, network: Network, lies: Lies) -> None:
        self._network = network
        self._lies = lies

    async def open(self, contact: Contact, protocol: str) -> Any:
        """As Transport.open."""
        return _Stream(await self._network.open(contact, protocol), self._network.peer_id, self._lies)

    async def serve(self, protocol: str, handler: Handler, known: Known = nobody) -> None:
        """As Transport.serve."""

        async def serve(stream: Stream) -> None:
            await handler(_Stream(stream, self._network.peer_id, self._lies))

        await self._network.serve(protocol, serve, known)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


def noise(share: float) -> Lie:
    """Hidden states with noise of `share` of their size."""
    random = torch.Generator().manual_seed(0)

    def lie(message: AnyMessage) -> AnyMessage:
        if not isinstance(message, Hidden):
            return message
        dtype = DTYPES[message.dtype]
        rows = message.states
        if message.packed:
            rows = unpack(rows, packed_size(rows), dtype.itemsize)
        states = from_bytes(rows, dtype, (-1,)).float()
        size = states.square().mean().sqrt()
        spoiled = states + share * size * torch.randn(states.shape, generator=random)
        return msgspec.structs.replace(message, states=to_bytes(spoiled.to(dtype)), packed=False)

    return lie


def another_token(message: AnyMessage) -> AnyMessage:
    """A verdict that ends with a token that the target would not say."""
    if not isinstance(message, Verdict):
        return message
    return msgspec.structs.replace(message, tokens=(*message.tokens[:-1], message.tokens[-1] ^ 1))


def beyond(message: AnyMessage) -> AnyMessage:
    """Drafted elsewhere: a text that ends with a token that does not exist."""
    if not isinstance(message, Generated):
        return message
    return msgspec.structs.replace(message, tokens=(*message.tokens[:-1], 1 << 30))


def ages(message: AnyMessage) -> AnyMessage:
    """A verdict that says that every stage took a day."""
    if not isinstance(message, Verdict):
        return message
    return msgspec.structs.replace(message, compute=(86400.0,) * len(message.compute))


def late(message: AnyMessage) -> AnyMessage:
    """The truth, some seconds later."""
    return message


def silence(message: AnyMessage) -> AnyMessage | None:
    """All that is asked, except for results: these never come."""
    return None if isinstance(message, Hidden | Verdict) else message


LIES: dict[str, Lie] = {
    "noise": noise(0.5),
    "token": another_token,
    "beyond": beyond,
    "ages": ages,
    "late": late,
    "silence": silence,
}


FALSE_RECORD = "record"
"""The name of the lie of a peer that announces all layers, and has some."""


def boasting(announcement: Announcement, *, of_all_layers: bool) -> Announcement:
    """What a liar announces, whatever it measures of itself: it is the fastest, and perhaps it has all layers."""
    claims: dict[str, Any] = {"step_seconds": 1e-6, "token_seconds": 1e-7}
    if of_all_layers:
        claims |= {"start": 0, "end": announcement.num_layers}
    return announcement.model_copy(update=claims)


def main() -> None:
    """Run as a peer that tells the lie which is named first."""
    name, *arguments = sys.argv[1:]
    serve_on, sign = node.serve_on, records.sign
    lie = LIES.get(name, lambda message: message)

    def sign_boasting(announcement: Announcement, *rest: Any) -> bytes:
        return sign(boasting(announcement, of_all_layers=name == FALSE_RECORD), *rest)

    async def serve_lying(network: Network, *rest: Any) -> None:
        await serve_on(Liar(network, {network.peer_id: lie}), *rest)

    records.sign = sign_boasting  # type: ignore[assignment]
    node.serve_on = serve_lying  # type: ignore[assignment]
    cli.main(["join", *arguments])


if __name__ == "__main__":
    main()
