"""Decides when, and whether, each packet arrives. Times are seconds of the caller's monotonic clock.

The law: a packet leaves its host when the uplink has sent everything before it (`rate_mbit`; a packet that
would wait longer than `QUEUE_S` is dropped, as a full modem does), is then lost with probability `loss`, and
arrives `delay_ms` plus jitter later, never before an earlier packet of its pair unless `reorder` is set. One to a host
behind NAT is dropped unless that host has sent to where it comes from.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from benchmarks.lab.messages import (
    Command,
    Cut,
    Done,
    GetTraffic,
    Heal,
    Links,
    Reply,
    ResetTraffic,
    SetDelay,
    SetLoss,
    SetRate,
    Start,
    Traffic,
    TrafficReport,
)

QUEUE_S = 0.25
"""Seconds of upload that a host's uplink holds back before it drops packets."""


@dataclass(slots=True)
class _Link:
    """One direction of one pair of hosts."""

    delay_s: float
    last_due: float = 0.0
    packets: int = 0
    bytes: int = 0


class Network:
    """The packets on their way, the links they take and the counters of what was carried."""

    def __init__(self, subnet: str, links: Links) -> None:
        """Host i of `links.hosts` has the address `subnet`.(i + 1)."""
        hosts = range(links.hosts)
        self._prefix = bytes(int(part) for part in subnet.split("."))
        self._links = [[_Link(links.delay_ms / 1e3) for _ in hosts] for _ in hosts]
        self._jitter_s = links.jitter_ms / 1e3
        self._loss = links.loss
        self._reorder = links.reorder
        self._random = Random(links.seed)  # noqa: S311 - draws losses, not secrets
        self._cut: set[int] = set()
        self._behind_nat = frozenset(links.behind_nat)
        self._sent_to: set[tuple[int, int, bytes]] = set()  # (host behind NAT, other host, protocol and both ports)
        self._uplink_free = [0.0 for _ in hosts]
        self._flying: list[tuple[float, int, int, bytes]] = []  # heap of (due, order of sending, dst, packet)
        self._order = count()
        self._seconds_per_byte = [0.0 for _ in hosts]  # of each uplink
        self._set_rate(links.rate_mbit, hosts)

    @property
    def next_due(self) -> float | None:
        """When the next packet arrives; None if none is on its way."""
        return self._flying[0][0] if self._flying else None

    def send(self, src: int, packet: bytes, now: float) -> None:
        """Take an IP packet that host `src` sends; what is not IPv4 to a host of the lab is dropped."""
        dst = self._destination(packet)
        if dst is None or src in self._cut or dst in self._cut or not self._passes_nat(src, dst, packet):
            return
        left = now
        if self._seconds_per_byte[src]:
            left = max(now, self._uplink_free[src]) + len(packet) * self._seconds_per_byte[src]
            if left - now > QUEUE_S:
                return
            self._uplink_free[src] = left
        if self._loss and self._random.random() < self._loss:
            return
        link = self._links[src][dst]
        due = left + link.delay_s
        if self._jitter_s:
            due += self._random.expovariate(1 / self._jitter_s)
        if not self._reorder:
            due = link.last_due = max(due, link.last_due)
        link.packets += 1
        link.bytes += len(packet)
        heapq.heappush(self._flying, (due, next(self._order), dst, packet))

    def arrivals(self, now: float) -> Iterator[tuple[int, bytes]]:
        """Give up, in order, every (destination, packet) that is due."""
        flying = self._flying
        while flying and flying[0][0] <= now:
            _, _, dst, packet = heapq.heappop(flying)
            if dst not in self._cut:
                yield dst, packet

    def apply(self, command: Command) -> Reply:
        """Carry out a command; in effect for every packet sent from now on."""
        match command:
            case SetDelay(ms=ms, pair=pair):
                self._set_delay(ms / 1e3, pair)
            case SetLoss(probability=probability):
                self._loss = probability
            case SetRate(mbit=mbit, host=host):
                self._set_rate(mbit, range(len(self._links)) if host is None else [host])
            case Cut(host=host):
                self._cut.add(host)
            case Heal(host=host):
                self._cut.discard(host)
            case GetTraffic():
                return self._report()
            case ResetTraffic():
                self._reset()
            case Start():
                raise ValueError("a network starts once")
        return Done()

    def _destination(self, packet: bytes) -> int | None:
        if len(packet) < 20 or packet[0] >> 4 != 4 or packet[16:19] != self._prefix:
            return None
        host = packet[19] - 1
        return host if 0 <= host < len(self._links) else None

    def _passes_nat(self, src: int, dst: int, packet: bytes) -> bool:
        if not self._behind_nat:
            return True
        protocol, ports = packet[9:10], 4 * (packet[0] & 0x0F)
        here, there = packet[ports : ports + 2], packet[ports + 2 : ports + 4]
        if src in self._behind_nat:
            self._sent_to.add((src, dst, protocol + here + there))
        return dst not in self._behind_nat or (dst, src, protocol + there + here) in self._sent_to

    def _set_delay(self, delay_s: float, pair: tuple[int, int] | None) -> None:
        if pair is None:
            for link in self._all_links():
                link.delay_s = delay_s
        else:
            a, b = pair
            self._links[a][b].delay_s = self._links[b][a].delay_s = delay_s

    def _set_rate(self, mbit: float | None, hosts: Iterable[int]) -> None:
        for host in hosts:
            self._seconds_per_byte[host] = 8 / (mbit * 1e6) if mbit is not None else 0.0
            self._uplink_free[host] = 0.0

    def _report(self) -> TrafficReport:
        return TrafficReport(
            [
                (src, dst, Traffic(link.packets, link.bytes))
                for src, row in enumerate(self._links)
                for dst, link in enumerate(row)
                if link.packets
            ]
        )

    def _reset(self) -> None:
        for link in self._all_links():
            link.packets = link.bytes = 0

    def _all_links(self) -> Iterator[_Link]:
        return (link for row in self._links for link in row)
