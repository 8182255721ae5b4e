"""Machines, the threads on them, and the links between them."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from random import Random
from typing import Any

import simpy

Act = Callable[..., None]
Steps = Generator[simpy.Event, Any, None]
"""Of a process."""

_TINY = 1e-6  # bytes that are none
_MOMENT = 1e-9  # seconds that are none


def chance(seed: int, name: str) -> Random:
    """Of its own for each thing: one more client changes nothing for the others."""
    return Random(f"{seed}/{name}")  # noqa: S311 - no secrets


class Later(simpy.Event):
    """Something that is sure to happen, and that is done then."""

    __slots__ = ("act", "arguments")

    def __init__(self, env: simpy.Environment, act: Act, arguments: tuple[Any, ...]) -> None:
        self.env = env
        self._ok, self._value = True, None
        self.act, self.arguments = act, arguments
        self.callbacks = [_do]


def _do(event: Any) -> None:
    event.act(*event.arguments)


def _nothing() -> None:
    """Be done with something, and leave it at that."""


def after(env: simpy.Environment, seconds: float, act: Act, *arguments: Any) -> None:
    """Have something done so much later."""
    env.schedule(Later(env, act, arguments), delay=seconds)


class Job(Later):
    """Work for a machine; the event happens when it is done."""

    __slots__ = ("seconds",)

    def __init__(self, env: simpy.Environment, seconds: float, act: Act, arguments: tuple[Any, ...] = ()) -> None:
        super().__init__(env, act, arguments)
        self.seconds = seconds

    def start(self) -> None:
        """A core has begun with it."""
        self.env.schedule(self, delay=self.seconds)


class Machine:
    """One program's own, with cores enough for it."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env

    def run(self, seconds: float, done: Act, *arguments: Any) -> None:
        """Compute for so long, then call `done`."""
        self.take(Job(self.env, seconds, done, arguments))

    def take(self, job: Job) -> None:
        """Do it."""
        job.start()


class SharedMachine(Machine):
    """So many cores, of which all that is to be computed has the same share, as by time slices."""

    def __init__(self, env: simpy.Environment, cores: int, switch: float = 0.0) -> None:
        """`switch`: seconds that work takes longer if it finds all cores taken."""
        super().__init__(env)
        self._cores = cores
        self._switch = switch
        self._jobs = list[tuple[float, int, Job]]()  # a heap: what `_done` will be when it is finished, its number
        self._done = 0.0  # seconds of work that whoever was there all the time would have got
        self._since = 0.0
        self._number = 0  # of jobs so far
        self._alarm = 0  # the newest one; older ones are void

    def take(self, job: Job) -> None:
        """Do it, together with what is there."""
        self._go_on()
        self._number += 1
        seconds = job.seconds + (self._switch if len(self._jobs) >= self._cores else 0.0)
        heapq.heappush(self._jobs, (self._done + seconds, self._number, job))
        self._set_alarm()

    @property
    def _rate(self) -> float:
        """Seconds of work that each job gets in a second."""
        return min(self._cores / max(len(self._jobs), 1), 1.0)

    def _go_on(self) -> None:
        self._done += (self.env.now - self._since) * self._rate
        self._since = self.env.now

    def _set_alarm(self) -> None:
        """For when the first of the jobs will be finished."""
        self._alarm += 1
        if self._jobs:
            left = max(self._jobs[0][0] - self._done, 0.0)
            after(self.env, left / self._rate, self._finish, self._alarm)

    def _finish(self, alarm: int) -> None:
        if alarm != self._alarm:
            return
        self._go_on()
        while self._jobs and self._jobs[0][0] <= self._done + _MOMENT:
            self.env.schedule(heapq.heappop(self._jobs)[2])
        self._set_alarm()


class Thread:
    """One of a program's own, for torch or for messages: one thing after the other, on a core of its machine."""

    def __init__(self, machine: Machine) -> None:
        self.busy_seconds = 0.0
        self._machine = machine
        self._waiting = deque[Job]()
        self.is_busy = False

    def run(self, seconds: float, done: Act = _nothing, *arguments: Any) -> Job:
        """Compute for so long, behind what waits, then call `done`."""
        job = Job(self._machine.env, seconds, done, arguments)
        job.callbacks.insert(0, self._finish)
        if self.is_busy:
            self._waiting.append(job)
        else:
            self._start(job)
        return job

    def _start(self, job: Job) -> None:
        self.is_busy = True
        self.busy_seconds += job.seconds
        self._machine.take(job)

    def _finish(self, _: Any) -> None:
        self.is_busy = False
        if self._waiting:
            self._start(self._waiting.popleft())


class Uplink:
    """So many bytes a second, which the connections that have something to send share evenly."""

    def __init__(self, env: simpy.Environment, rate: float) -> None:
        self._env = env
        self._rate = rate
        self._flows: dict[str, deque[list[Any]]] = {}  # by receiver: [bytes left, what to do when none are]
        self._since = 0.0
        self._alarm = 0  # the newest one; older ones are void

    def send(self, receiver: str, size: int, act: Act, *arguments: Any) -> None:
        """Do something when so many bytes have left, behind what goes to the same receiver."""
        self._go_on()
        self._flows.setdefault(receiver, deque()).append([float(size), act, arguments])
        self._set_alarm()

    def _go_on(self) -> None:
        """Count what has left since the last time."""
        now = self._env.now
        share = (now - self._since) * self._rate / max(len(self._flows), 1)
        for waiting in self._flows.values():
            waiting[0][0] -= share
        self._since = now

    def _set_alarm(self) -> None:
        """For when the first of the messages will have left."""
        self._alarm += 1
        least = self._least()
        after(self._env, max(least, 0.0) * len(self._flows) / self._rate, self._leave, self._alarm)

    def _least(self) -> float:
        """Bytes left of the message that has fewest."""
        if len(self._flows) == 1:
            (waiting,) = self._flows.values()
            return float(waiting[0][0])
        return float(min(waiting[0][0] for waiting in self._flows.values()))

    def _leave(self, alarm: int) -> None:
        if alarm != self._alarm:
            return
        self._go_on()
        least = self._least()
        acts = []
        for receiver, waiting in list(self._flows.items()):
            if waiting[0][0] <= least + _TINY:
                acts.append(waiting.popleft())
                if not waiting:
                    del self._flows[receiver]
        if self._flows:
            self._set_alarm()
        for _, act, arguments in acts:
            act(*arguments)


class Host:
    """A node of the network."""

    __slots__ = ("arrived", "bytes_sent", "is_up", "loop", "name", "place", "thread", "uplink")

    def __init__(self, name: str, machine: Machine, place: str, uplink: float | None) -> None:
        """`place`: between which links are told; `uplink`: bytes a second that it can send, if there is a limit."""
        self.name = name
        self.thread = Thread(machine)
        """For torch, ..."""
        self.loop = Thread(machine)
        """... and for messages."""
        self.place = place
        self.uplink = Uplink(machine.env, uplink) if uplink else None
        self.is_up = True
        self.bytes_sent = 0
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
    """That a machine computes for a message, at each end, ..."""
    byte_seconds: float = 0.0
    """... and for each byte of it."""
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
        self.links = links
        self._protocol = protocol
        self._random = random

    def delay(self, one: Host, other: Host) -> float:
        """Seconds of the link from one to the other, without chance."""
        return 0.0 if one is other else self.links(one.place, other.place).delay

    def send(self, sender: Host, receiver: Host, size: int, act: Act, *arguments: Any) -> None:
        """Have something done when `size` bytes have arrived; not, if the receiver is down then."""
        self.messages += 1
        if sender is receiver:
            after(self.env, 0.0, act, *arguments)
        elif work := self._work(size):
            sender.loop.run(work, self._upload, sender, receiver, size, act, arguments)
        else:
            self._upload(sender, receiver, size, act, arguments)

    def _upload(self, sender: Host, receiver: Host, size: int, act: Act, arguments: tuple[Any, ...]) -> None:
        sender.bytes_sent += size
        if sender.uplink is None:
            self._leave(sender, receiver, size, act, arguments)
        else:
            sender.uplink.send(receiver.name, size, self._leave, sender, receiver, size, act, arguments)

    def _leave(self, sender: Host, receiver: Host, size: int, act: Act, arguments: tuple[Any, ...]) -> None:
        now, link = self.env.now, self.links(sender.place, receiver.place)
        arrival = now + link.delay + 2 * link.delay * size / self._protocol.window
        if link.jitter:
            arrival += self._random.expovariate(1 / link.jitter)
        if link.loss:
            arrival += self._lost(link, size)
        arrival = sender.arrived[receiver.name] = max(arrival, sender.arrived.get(receiver.name, 0.0))
        after(self.env, arrival - now, self._arrive, receiver, size, act, arguments)

    def _work(self, size: int) -> float:
        """Seconds that a machine computes for a message of so many bytes."""
        return self._protocol.message_seconds + self._protocol.byte_seconds * size

    def _lost(self, link: Link, size: int) -> float:
        """Seconds by which lost packets hold a message up: each time a round trip, until the loss is noticed."""
        seconds, packets = 0.0, -(-size // self._protocol.packet)
        while self._random.random() >= (1 - link.loss) ** packets:
            seconds += 2 * link.delay
            packets = 1
        return seconds

    def _arrive(self, receiver: Host, size: int, act: Act, arguments: tuple[Any, ...]) -> None:
        if not receiver.is_up:
            return
        if work := self._work(size):
            receiver.loop.run(work, act, *arguments)
        else:
            act(*arguments)
