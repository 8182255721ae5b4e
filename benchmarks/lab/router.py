"""The router process: reads what hosts send from their TUN devices, writes it to its destination when due.

Started by `control.Router` with the control socket as its standard input. It ends when the lab's end of that
socket is closed, so it never outlives the lab, however the lab ends.

It shares the machine with the programs that are measured, so it sleeps whenever nothing is due. It sleeps in
select(), which Python passes microseconds to; epoll would round each wait up to a millisecond. It asks for
real-time priority so that programs that use every core do not add to the delay of a packet.
"""

import gc
import os
import select
import socket
import time
from contextlib import suppress

from benchmarks.lab.messages import MAX_DATAGRAM, MAX_HOSTS, Done, Start, decode_command, encode
from benchmarks.lab.network import Network

BATCH = 64
"""Packets read from one host before the others have their turn."""

MAX_PACKET = 65536
"""Bytes; an IPv4 packet has at most 65535."""


class Router:
    """Moves packets between TUN devices by the decisions of a `Network`."""

    def __init__(self, network: Network, tuns: list[int], control: socket.socket) -> None:
        """`tuns`: one non-blocking TUN file descriptor per host, in order."""
        self._network = network
        self._tuns = tuns
        self._host_of = {fd: host for host, fd in enumerate(tuns)}
        self._control = control

    def run(self) -> None:
        """Move packets and obey commands until the lab closes the control socket."""
        control = self._control.fileno()
        sources = [control, *self._tuns]
        while True:
            self._deliver()
            readable, _, _ = select.select(sources, [], [], self._until_next())
            for fd in readable:
                if fd != control:
                    self._collect(fd)
                elif not self._obey():
                    return

    def _deliver(self) -> None:
        for dst, packet in self._network.arrivals(time.monotonic()):
            with suppress(OSError):  # the device is down or full: lost, as on any network
                os.write(self._tuns[dst], packet)

    def _until_next(self) -> float | None:
        due = self._network.next_due
        return None if due is None else max(0.0, due - time.monotonic())

    def _collect(self, fd: int) -> None:
        host = self._host_of[fd]
        for _ in range(BATCH):
            try:
                packet = os.read(fd, MAX_PACKET)
            except OSError:  # nothing more to read, or the device is down
                return
            self._network.send(host, packet, time.monotonic())

    def _obey(self) -> bool:
        """Answer one command; False when the lab is gone."""
        datagram = self._control.recv(MAX_DATAGRAM)
        if not datagram:
            return False
        self._control.send(encode(self._network.apply(decode_command(datagram))))
        return True


def main() -> None:
    """Take the first command, `Start`, with the TUN devices, then run."""
    control = socket.socket(fileno=0)
    datagram, tuns, _, _ = socket.recv_fds(control, MAX_DATAGRAM, MAX_HOSTS)
    if not datagram:
        return
    start = decode_command(datagram)
    if not isinstance(start, Start) or len(tuns) != start.links.hosts:
        raise ValueError(f"the router expects Start and a device per host, not {start} and {len(tuns)} devices")
    gc.disable()  # no cycles here, and no pauses wanted
    with suppress(PermissionError):  # without it delays are only less exact when every core is busy
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    control.send(encode(Done()))
    with suppress(ConnectionError):
        Router(Network(start.subnet, start.links), tuns, control).run()


if __name__ == "__main__":
    main()
