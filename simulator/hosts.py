"""Machines, the threads on them, and the links between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import simpy

Act = Callable[..., None]


def after(env: simpy.Environment, seconds: float, act: Act, *arguments: Any) -> None:
    """Have something done so much later."""
    env.timeout(seconds).callbacks.append(lambda _: act(*arguments))


def _succeed(event: simpy.Event) -> None:
    event.succeed()


class Machine:
    """So many cores; what finds none free waits, first come first served."""

    def __init__(self, env: simpy.Environment, cores: int) -> None:
        self.env = env
        self.busy_seconds = 0.0
        """Of all cores together."""
        self.cores = cores
        self._free = cores
        self._waiting = deque[tuple[float, Act, tuple[Any, ...]]]()

    def run(self, seconds: float, done: Act, *arguments: Any) -> None:
        """Compute for so long, then call `done`."""
        if self._free:
            self._free -= 1
            self._start(seconds, done, arguments)
        else:
            self._waiting.append((seconds, done, arguments))

    def _start(self, seconds: float, done: Act, arguments: tuple[Any, ...]) -> None:
        self.busy_seconds += seconds
        after(self.env, seconds, self._finish, done, arguments)

    def _finish(self, done: Act, arguments: tuple[Any, ...]) -> None:
        if self._waiting:
            self._start(*self._waiting.popleft())
        else:
            self._free += 1
        done(*arguments)


class Thread:
    """A program's torch thread: one thing after the other, on a core of its machine."""

    def __init__(self, machine: Machine) -> None:
        self.busy_seconds = 0.0
        self._machine = machine
        self._waiting = deque[tuple[float, Act, tuple[Any, ...]]]()
        self._is_busy = False

    def run(self, seconds: float, done: Act, *arguments: Any) -> None:
        """Compute for so long, then call `done`."""
        self._waiting.append((seconds, done, arguments))
        self._next()

    def job(self, seconds: float) -> simpy.Event:
        """The same, as an event of a process."""
        event = self._machine.env.event()
        self.run(seconds, _succeed, event)
        return event

    def _next(self) -> None:
        if self._waiting and not self._is_busy:
            self._is_busy = True
            seconds, done, arguments = self._waiting.popleft()
            self.busy_seconds += seconds
            self._machine.run(seconds, self._finish, done, arguments)

    def _finish(self, done: Act, arguments: tuple[Any, ...]) -> None:
        self._is_busy = False
        done(*arguments)
        self._next()


class Host:
    """A node of the network."""

    __slots__ = ("arrived", "bytes_sent", "free_at", "is_up", "machine", "name", "place", "thread", "uplink")

    def __init__(self, name: str, machine: Machine, place: str, uplink: float) -> None:
        """`place`: between which links are told; `uplink`: bytes a second that it can send."""
        self.name = name
        self.machine = machine
        self.thread = Thread(machine)
        self.place = place
        self.uplink = uplink
        self.is_up = True
        self.bytes_sent = 0
        self.free_at = 0.0
        """When all that it has sent so far has left it."""
        self.arrived: dict[str, float] = {}
        """By receiver, when the last message arrives there: those on one stream never pass each other."""


@dataclass(frozen=True, slots=True)
class Link:
    """One way, between two places."""

    delay: float
    """Seconds."""
    jitter: float = 0.0
    """The mean of what comes on top by chance, exponential."""
    loss: float = 0.0
    """Share of the packets that are lost, and sent again."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """What the transport makes of links."""

    message_seconds: float = 0.0
    """That a machine computes for a message, at each end."""
    window: float = float("inf")
    """Bytes that are sent before an answer must be back; what is longer takes a share of a round trip more."""
    packet: int = 1200
    """Bytes."""


class Network:
    """Brings messages from host to host."""

    def __init__(
        self,
        env: simpy.Environment,
        links: Callable[[str, str], Link],
        protocol: Protocol,
        random: Random,
    ) -> None:
        self.env = env
        self.messages = 0
        self._links = links
        self._protocol = protocol
        self._random = random

    def delay(self, one: Host, other: Host) -> float:
        """Seconds of the link from one to the other, without chance."""
        return 0.0 if one is other else self._links(one.place, other.place).delay

    def send(self, sender: Host, receiver: Host, size: int, act: Act, *arguments: Any) -> None:
        """Have something done when `size` bytes have arrived; not, if the receiver is down then."""
        self.messages += 1
        if sender is receiver:
            after(self.env, 0.0, act, *arguments)
        elif self._protocol.message_seconds:
            sender.machine.run(self._protocol.message_seconds, self._leave, sender, receiver, size, act, arguments)
        else:
            self._leave(sender, receiver, size, act, arguments)

    def _leave(self, sender: Host, receiver: Host, size: int, act: Act, arguments: tuple[Any, ...]) -> None:
        now, link = self.env.now, self._links(sender.place, receiver.place)
        sender.bytes_sent += size
        sender.free_at = max(sender.free_at, now) + size / sender.uplink
        arrival = sender.free_at + link.delay + 2 * link.delay * size / self._protocol.window
        if link.jitter:
            arrival += self._random.expovariate(1 / link.jitter)
        if link.loss:
            arrival += self._lost(link, size)
        arrival = sender.arrived[receiver.name] = max(arrival, sender.arrived.get(receiver.name, 0.0))
        after(self.env, arrival - now, self._arrive, receiver, act, arguments)

    def _lost(self, link: Link, size: int) -> float:
        """Seconds by which lost packets hold a message up: each time a round trip, until the loss is noticed."""
        seconds, packets = 0.0, -(-size // self._protocol.packet)
        while self._random.random() >= (1 - link.loss) ** packets:
            seconds += 2 * link.delay
            packets = 1
        return seconds

    def _arrive(self, receiver: Host, act: Act, arguments: tuple[Any, ...]) -> None:
        if not receiver.is_up:
            return
        if self._protocol.message_seconds:
            receiver.machine.run(self._protocol.message_seconds, act, *arguments)
        else:
            act(*arguments)
