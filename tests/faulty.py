"""A network that misbehaves as it is told, in a time that jumps: whole swarms live through hours in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar

from swarm.codec import decode, encode
from swarm.complaints import Complaints
from swarm.errors import DaemonEnded, PeerLost
from swarm.incoming import Known, nobody
from swarm.transport import Handler
from swarm.wire import AnyMessage, Contact

_END = b""
T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: when nothing is ready, its clock jumps to what is due next."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self._now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *arguments: Any) -> Any:
        """At once: a thread would be left behind by a clock that jumps."""
        if executor is not None:
            return super().run_in_executor(executor, func, *arguments)
        done = self.create_future()
        try:
            done.set_result(func(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    def jump(self, seconds: float) -> None:
        self._now += seconds


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        if not ready and timeout:
            self._loop.jump(timeout)
        return ready


def run(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class FaultyStream:
    """One end of a stream; messages arrive in order, each after a delay of its own."""

    def __init__(self, node: FaultyNode, peer: FaultyNode) -> None:
        self.peer_id = peer.peer_id
        self.bytes_sent = self.bytes_received = 0
        self.other: FaultyStream
        self.node, self._peer = node, peer
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._flying: deque[bytes] = deque()
        self._last_due = 0.0
        self._ended = False

    async def send(self, *messages: AnyMessage) -> None:
        if self._ended:
            raise PeerLost(self.peer_id, "its stream has ended")
        for data in map(encode, messages):
            self._send(data)

    def send_at_once(self, message: AnyMessage) -> bool:
        if not self._ended:
            self._send(encode(message))
        return not self._ended

    def _send(self, data: bytes) -> None:
        self.bytes_sent += len(data)
        network = self.node.network
        if network.random.random() >= network.loss:
            self.deliver(data)
        if network.random.random() < network.repeats and self.node.past:
            stream, old = network.random.choice(self.node.past)
            stream.deliver(old)
        self.node.past.append((self, data))

    async def receive(self) -> AnyMessage:
        data = await self._inbox.get()
        if data == _END:
            self._ended = True
            self._inbox.put_nowait(_END)
            raise PeerLost(self.peer_id, "its stream has ended")
        self.bytes_received += len(data)
        return decode(data)

    def close(self) -> None:
        """End both directions; what is on its way arrives before the end does."""
        if not self._ended:
            self._ended = True
            self.deliver(_END)
            self._inbox.put_nowait(_END)

    def tear(self) -> None:
        """The same, and what is on its way never arrives."""
        self._flying.clear()
        self.other._flying.clear()
        self.close()

    def deliver(self, data: bytes) -> None:
        """Have bytes arrive at the other end, when both ends are awake."""
        loop = asyncio.get_running_loop()
        self._flying.append(data)
        self._last_due = max(self._last_due, loop.time() + self.node.network.delay())
        self.node.when_awake(lambda: loop.call_at(self._last_due, self._peer.when_awake, self._arrive))

    def _arrive(self) -> None:
        """The oldest of what is on its way is there: timers that end together may come in any order."""
        if self._flying:
            self.other._inbox.put_nowait(self._flying.popleft())


class FaultyNode:
    """One node's transport."""

    def __init__(self, network: FaultyNetwork, peer_id: str) -> None:
        self.network = network
        self.peer_id = peer_id
        self.complaints = Complaints()
        self.streams: list[FaultyStream] = []
        self.past: list[tuple[FaultyStream, bytes]] = []
        self.is_hung = False
        self.is_cut_off = False
        self.has_ended = False
        self.tasks: set[asyncio.Task[None]] = set()
        self._handlers: dict[str, Handler] = {}
        self._backlog: list[Callable[[], object]] = []

    async def serve(self, protocol: str, handler: Handler, _: Known = nobody) -> None:
        self._handlers[protocol] = handler

    def check(self) -> None:
        if self.has_ended:
            raise DaemonEnded

    async def open(self, contact: Contact, protocol: str) -> FaultyStream:
        await asyncio.sleep(self.network.delay())
        other = self.network.nodes.get(contact.peer_id)
        if self.is_cut_off or other is None or protocol not in other._handlers:
            raise PeerLost(contact.peer_id, "it cannot be reached")
        here, there = FaultyStream(self, other), FaultyStream(other, self)
        here.other, there.other = there, here
        self.streams.append(here)
        other.streams.append(there)
        other.when_awake(lambda: other.start(other._handle(other._handlers[protocol], there)))
        return here

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something for as long as the node lives."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def when_awake(self, action: Callable[[], object]) -> None:
        """Do it now, or when the node is resumed."""
        if self.is_hung:
            self._backlog.append(action)
        else:
            action()

    def resume(self) -> None:
        self.is_hung = False
        backlog, self._backlog = self._backlog, []
        for action in backlog:
            action()

    async def _handle(self, handler: Handler, stream: FaultyStream) -> None:
        try:
            await handler(stream)
        except PeerLost:
            pass
        finally:
            stream.close()


class FaultyNetwork:
    """The nodes, and what may go wrong between them."""

    def __init__(self, seed: int, *, loss: float = 0.0, repeats: float = 0.0, longest_delay: float = 0.05) -> None:
        self.random = Random(seed)
        self.nodes: dict[str, FaultyNode] = {}
        self.loss = loss
        """Chance of a message to vanish."""
        self.repeats = repeats
        """Chance of an old message of the same node to arrive again."""
        self._longest_delay = longest_delay

    def delay(self) -> float:
        return self.random.uniform(0, self._longest_delay)

    def join(self, peer_id: str) -> FaultyNode:
        node = self.nodes[peer_id] = FaultyNode(self, peer_id)
        return node

    def kill(self, peer_id: str) -> None:
        """The node is gone, and all it had; its streams end."""
        node = self.nodes.pop(peer_id)
        node.resume()
        for task in node.tasks:
            task.cancel()
        for stream in node.streams:
            stream.close()

    def cut_off(self, peer_id: str, seconds: float) -> None:
        """All of the node's streams break, and for a while it opens no others."""
        node = self.nodes[peer_id]
        node.is_cut_off = True
        for stream in node.streams:
            stream.tear()
        asyncio.get_running_loop().call_later(seconds, setattr, node, "is_cut_off", False)

    def cut(self, peer_id: str) -> None:
        """One of the node's streams breaks; what is on its way is lost."""
        streams = self.nodes[peer_id].streams
        if streams:
            self.random.choice(streams).tear()
