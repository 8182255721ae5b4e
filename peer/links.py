"""Results on their way to next peers: one stream for each, shared by all sessions.

What a session has for a neighbour is a flow of its own. Flows take turns on their link, and give it a message when
their turn comes: what is passed on again is read from the session's log only then. So nobody waits for a slow
neighbour but who talks to it, and a session that has much to pass on delays no other one.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import closing
from functools import partial

from peer import packer
from peer.dials import Dials
from peer.session import Refusal, Session
from peer.shares import Turns
from swarm.errors import BadMessage, PeerLost
from swarm.tasks import end, owned
from swarm.transport import Stream, Transport
from swarm.wire import PUSH_PROTOCOL, AnyMessage, Contact, size_of

FLOW_BYTES = 4 << 20  # of one session's results that wait, above which it computes no more of them; ...
MAX_BYTES = 128 << 20  # ... of all sessions', above which none does of a client of whom more than his share wait
WRITE_BYTES = 1 << 16  # that go out in one write, if the last message does not take more
MAX_DIALS = 4  # of one client's next peers, at once
MAX_LINKS = 32  # that were opened for one client: two for each of his sessions
LINGER_SECONDS = 30.0  # for which a link stays open that nobody uses: the next text is likely to

Change = Callable[[AnyMessage], Awaitable[AnyMessage]]
"""What becomes of a message before it is sent."""


class Flow:
    """What one session has for one neighbour, in order: what is passed on again, then what was computed since."""

    def __init__(self, session: Session, link: Link) -> None:
        self.session = session
        self.link = link
        self.num_bytes = 0
        """Of what was computed and waits."""
        self._again: Iterator[AnyMessage] = iter(())
        self._new: deque[AnyMessage] = deque()

    def post(self, message: AnyMessage) -> None:
        """Send this behind all else."""
        self._new.append(message)
        self.num_bytes += size_of(message)

    def begin_with(self, messages: Iterator[AnyMessage]) -> None:
        """Send these, instead of what waits: it is among them, or not wanted any more."""
        self._again = messages
        self._new.clear()
        self.num_bytes = 0

    def take(self) -> AnyMessage | None:
        """The next message; None if there is none."""
        message = next(self._again, None)
        if message is None and self._new:
            message = self._new.popleft()
            self.num_bytes -= size_of(message)
        return message


class Link:
    """The stream to one neighbour, and the flows that share it: by turns, first of their clients, then of each one's
    sessions."""

    def __init__(self, contact: Contact, client: str) -> None:
        """`client`: for whom it is opened."""
        self.contact = contact
        self.client = client
        self.stream: Stream | None = None
        """Once it is open."""
        self.flows: dict[Flow, None] = {}
        """Of everybody who uses it."""
        self.task: asyncio.Task[None]
        """Which sends."""
        self.unused: asyncio.TimerHandle | None = None
        """Ends it, if nobody uses it any more."""
        self._waiting: dict[Flow, None] = {}
        self._some = asyncio.Event()
        self._is_idle = False  # whether all that was taken has been sent
        self._turns = Turns()

    def wake(self, flow: Flow) -> None:
        """A flow has something."""
        self._waiting[flow] = None
        self._some.set()

    def remove(self, flow: Flow) -> None:
        """Forget a flow, and what waits of it."""
        self.flows.pop(flow, None)
        self._waiting.pop(flow, None)
        self._turns.forget(flow.session.client, flow.session.id)
        self._turns.keep({other.session.client for other in self.flows})

    def clients(self) -> set[str]:
        """Of everybody who uses it, or for whom it was opened."""
        return {flow.session.client for flow in self.flows} or {self.client}

    @property
    def is_waiting(self) -> bool:
        """Whether there is more to send."""
        return bool(self._waiting)

    def send_at_once(self, message: AnyMessage) -> bool:
        """Send this if nothing waits here, or in the stream; whether that was so. It saves a turn of the event loop."""
        if self.stream is None or self._waiting or not self._is_idle:
            return False
        return self.stream.send_at_once(message)

    async def next(self) -> list[AnyMessage]:
        """What goes out in one write, as soon as there is something."""
        while not (self._waiting and (messages := self._take())):
            self._some.clear()
            self._is_idle = True
            await self._some.wait()
            self._is_idle = False
        return messages

    def _take(self) -> list[AnyMessage]:
        messages, size = list[AnyMessage](), 0
        while size < WRITE_BYTES and self._waiting:
            flow = self._next()
            message = flow.take()
            if message is None:
                del self._waiting[flow]
                continue
            messages.append(message)
            cost = size_of(message)
            size += cost
            if len(self._waiting) > 1 or not self._turns.is_fresh:
                self._turns.charge({(flow.session.client, flow.session.id): cost})
        if not self._waiting and not self._turns.is_fresh:
            self._turns.begin_anew()
        return messages

    def _next(self) -> Flow:
        """Whose turn it is."""
        if len(self._waiting) == 1:
            return next(iter(self._waiting))
        return min(self._waiting, key=lambda one: self._turns.so_far(one.session.client, one.session.id))


class Links:
    """The links to all neighbours, and who uses them."""

    def __init__(
        self,
        transport: Transport,
        on_lost: Callable[[Collection[Session], PeerLost], None],
        on_room: Callable[[], object],
        change: Change | None = None,
        is_new: Callable[[str], bool] = lambda client: True,
    ) -> None:
        """`on_lost` is told of a link that broke, and whose results went over it; `on_room`, that some of what waited
        has been sent. `change` makes of each message what is sent; `is_new`: whether a client is a newcomer."""
        self._transport = transport
        self._on_lost = on_lost
        self._on_room = on_room
        self._change = change
        self._dials = Dials(is_new)
        self._links: dict[Contact, Link] = {}  # a peer that came back elsewhere is another contact
        self._results: dict[bytes, Flow] = {}  # by session: to its next peer
        self._closing: set[asyncio.Task[None]] = set()
        self._copies: dict[bytes, Flow] = {}  # by session: to one that is to take the next one's place

    def __len__(self) -> int:
        return len(self._links)

    @property
    def full(self) -> set[bytes]:
        """Sessions whose results wait for a neighbour that reads slowly: more of them would only wait, too."""
        flows = [flow for flow in self._results.values() if flow.num_bytes]
        if sum(flow.num_bytes for flow in flows) <= FLOW_BYTES:
            return set()
        held_up = {flow.session.id for flow in flows if flow.num_bytes > FLOW_BYTES}
        waiting = Counter[str]()  # by client
        for flow in flows:
            waiting[flow.session.client] += flow.num_bytes
        if waiting.total() >= MAX_BYTES:
            share = MAX_BYTES / len(waiting)
            held_up |= {flow.session.id for flow in flows if waiting[flow.session.client] >= share}
        return held_up

    def check(self, client: str, to: Contact) -> None:
        """Raise Refusal if a client has named too many other peers already."""
        if to in self._links:
            return
        own = [link for link in self._links.values() if link.client == client]
        dialled = sum(link.stream is None for link in own)
        if dialled >= MAX_DIALS:
            raise Refusal("rate", f"the ways to {dialled} next peers that this client named are still being opened")
        if len(own) >= MAX_LINKS:
            raise Refusal("rate", f"the ways to {len(own)} next peers that this client named are open")

    def lead(self, session: Session) -> None:
        """Open the way to the session's next peer, unless it is open, so that its first result finds it ready."""
        flow = self._results.get(session.id)
        if flow is not None and (flow.session is not session or flow.link.contact != session.downstream):
            self._end(self._results, session.id)
        if session.downstream is not None and session.id not in self._results:
            self._results[session.id] = self._begin(session, session.downstream)

    def push(self, session: Session, message: AnyMessage) -> None:
        """Send a result to the session's next peer. If it cannot be brought there, `on_lost` is told."""
        self.lead(session)
        flow = self._results[session.id]
        if size_of(message) >= packer.LEAST or not flow.link.send_at_once(message):
            flow.post(message)
            flow.link.wake(flow)

    def push_again(self, session: Session, messages: Iterator[AnyMessage]) -> None:
        """Send these to the session's next peer, instead of what waits: they are asked for as the link takes them. What
        was to be copied for it is given up: whoever wanted that has been overtaken by events."""
        self._end(self._copies, session.id)
        self.lead(session)
        _begin_with(self._results[session.id], messages)
        asyncio.get_running_loop().call_soon(self._on_room)

    def copy(self, session: Session, to: Contact, messages: Iterator[AnyMessage]) -> None:
        """Send these to another peer, in place of what was to be copied before and has not been yet."""
        flow = self._copies.get(session.id)
        if flow is None or flow.link.contact != to:
            self._end(self._copies, session.id)
            flow = self._copies[session.id] = self._begin(session, to)
        _begin_with(flow, messages)

    def leave(self, session_id: bytes) -> None:
        """Forget a session that ended, and what waits of it; one that used no link is no error."""
        self._end(self._results, session_id)
        self._end(self._copies, session_id)

    async def close(self) -> None:
        """End all streams."""
        links, self._links = list(self._links.values()), {}
        for link in links:
            _stop_waiting(link)
        await end(*(link.task for link in links), *self._closing)

    def _begin(self, session: Session, to: Contact) -> Flow:
        link = self._links.get(to)
        if link is None:
            link = self._links[to] = Link(to, session.client)
            failed = partial(self._fail, link)
            link.task = owned(self._serve(link), f"the link to {to.peer_id}", on_failure=failed)
        _stop_waiting(link)
        flow = Flow(session, link)
        link.flows[flow] = None
        return flow

    def _end(self, flows: dict[bytes, Flow], session_id: bytes) -> None:
        flow = flows.pop(session_id, None)
        if flow is None:
            return
        link = flow.link
        link.remove(flow)
        if flow.num_bytes:
            asyncio.get_running_loop().call_soon(self._on_room)
        if not link.flows and self._links.get(link.contact) is link:
            link.unused = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._close_unused, link)

    def _close_unused(self, link: Link) -> None:
        del self._links[link.contact]
        self._closing.add(link.task)
        link.task.add_done_callback(self._closing.discard)
        link.task.cancel()

    async def _serve(self, link: Link) -> None:
        try:
            with closing(await self._open(link)) as stream:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._send(link, stream))
                    await stream.receive()  # nothing comes back: this returns when the stream ends
                    raise PeerLost(link.contact.peer_id, "it answers what needs no answer")
        except* (PeerLost, BadMessage) as errors:
            error = errors.exceptions[0]
            lost = error if isinstance(error, PeerLost) else PeerLost(link.contact.peer_id, str(error))
            self._drop(link, lost)

    async def _open(self, link: Link) -> Stream:
        """Raises PeerLost when it cannot be opened for those who joined last.

        A dial to a dead host takes long to fail, and the peer may be back by then: it says nothing to those who joined
        after it had begun.
        """
        while True:
            async with self._dials.turn(link.contact, link.clients):
                joined = dict(link.flows)
                try:
                    stream = await self._transport.open(link.contact, PUSH_PROTOCOL)
                except PeerLost as error:
                    self._dials.note_failed(link.contact)
                    if link.flows.keys() <= joined.keys():
                        raise
                    self._lose(link, joined, error)
                else:
                    link.stream = stream
                    self._dials.note_reached(link.contact)
                    return stream

    async def _send(self, link: Link, stream: Stream) -> None:
        """What its flows have, by turns. Raises PeerLost when the stream breaks."""
        while True:
            messages = await link.next()
            await stream.send(*[await self._change(one) for one in messages] if self._change else messages)
            self._on_room()
            if link.is_waiting:
                await asyncio.sleep(0)  # a turn for others, however fast the stream takes what it is given

    def _fail(self, link: Link, _: Exception) -> None:
        """What was to go there is lost by a fault of this peer, and the neighbour is not to blame."""
        self._drop(link, PeerLost(self._transport.peer_id, "it failed inside; its log has the cause"))

    def _drop(self, link: Link, error: PeerLost) -> None:
        if self._links.get(link.contact) is not link:
            return
        del self._links[link.contact]
        _stop_waiting(link)
        self._lose(link, list(link.flows), error)

    def _lose(self, link: Link, lost: Iterable[Flow], error: PeerLost) -> None:
        """Forget flows whose messages cannot be brought, and tell whose results those are."""
        lost = list(lost)
        sessions = [flow.session for flow in lost if self._results.get(flow.session.id) is flow]
        for flow in lost:
            for flows in (self._results, self._copies):
                if flows.get(flow.session.id) is flow:
                    del flows[flow.session.id]
            link.remove(flow)
        self._on_lost(sessions, error)
        self._on_room()


def _begin_with(flow: Flow, messages: Iterator[AnyMessage]) -> None:
    flow.begin_with(messages)
    flow.link.wake(flow)


def _stop_waiting(link: Link) -> None:
    if link.unused is not None:
        link.unused.cancel()
        link.unused = None
