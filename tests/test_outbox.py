"""Answers on their way to a client: what waits together goes out together, and there is a bound."""

from __future__ import annotations

import asyncio

from peer.outbox import MAX_BYTES, MAX_QUEUED, WRITE_BYTES, Outbox
from swarm.sketch import ROW_BYTES
from swarm.wire import MAX_RECALLED, NO_SESSION, AnyMessage, Hidden, Ping, Recalled, Round


def large(size: int) -> Hidden:
    return Hidden(Round(NO_SESSION, 0, 0, (1,), 0, True), 1, "float32", bytes(size), ())


class Writes:
    """A stream to which nothing is written before `open` is set."""

    peer_id = "client"

    def __init__(self) -> None:
        self.writes: list[tuple[AnyMessage, ...]] = []
        self.is_open = asyncio.Event()

    async def send(self, *messages: AnyMessage) -> None:
        self.writes.append(messages)
        await self.is_open.wait()


def test_what_waits_for_one_client_is_bounded_in_bytes_and_in_number() -> None:
    def posted(message: AnyMessage) -> int:
        outbox = Outbox()
        return next(count for count in range(5000) if not outbox.post(message))

    sketches = bytes(MAX_RECALLED * ROW_BYTES)
    assert posted(Ping(0)) == MAX_QUEUED
    assert posted(large(MAX_BYTES // 4)) == 3  # each takes a little more than its states
    assert posted(Recalled(NO_SESSION, 0, sketches)) < MAX_BYTES // len(sketches)


def test_what_waits_goes_out_in_one_write_in_order_and_bounded() -> None:
    async def run() -> None:
        stream, outbox = Writes(), Outbox()
        sending = asyncio.create_task(outbox.run(stream))  # type: ignore[arg-type]
        posted: list[AnyMessage] = [Ping(0), Ping(1), large(WRITE_BYTES), Ping(2), large(WRITE_BYTES // 2), Ping(3)]
        posted += [large(WRITE_BYTES // 2), Ping(4)]
        for message in posted:
            assert outbox.post(message)
        stream.is_open.set()
        while sum(map(len, stream.writes)) < len(posted):  # noqa: ASYNC110  # a turn of the loop each
            await asyncio.sleep(0)
        sending.cancel()
        assert [message for write in stream.writes for message in write] == posted
        assert [len(write) for write in stream.writes] == [3, 4, 1]
        assert outbox._bytes == 0

    asyncio.run(run())
