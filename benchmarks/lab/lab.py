"""`Lab`: hosts, links and the programs that run on them, all taken down when it is left."""

import os
import subprocess
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from benchmarks.lab.control import Router
from benchmarks.lab.errors import LabError
from benchmarks.lab.messages import (
    Command,
    Cut,
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
from benchmarks.lab.namespaces import (
    Host,
    claim_lab,
    create_host,
    end_processes,
    processes_in,
    remove_namespaces,
    remove_stale_labs,
    require_lab_support,
    subnet,
)
from benchmarks.lab.signals import EndingSignals


class Lab:
    """A wide-area network on this machine. Hosts are numbered from 0; times are milliseconds.

        with Lab(hosts=3, delay_ms=25) as lab:
            server = lab.popen(0, ["python", "server.py", "--listen", lab.address(0)])
            client = lab.popen(1, ["python", "client.py", "--connect", lab.address(0)])
            lab.cut(0)

    Leaving it, by the end of the block, an exception, Ctrl-C, SIGTERM or SIGHUP, ends the programs and
    removes the hosts. (SIGTERM and SIGHUP raise SystemExit, if the lab is entered in the main thread and the
    program has no handler of its own.) What a killed lab leaves, the next one on this machine removes.

    Entering raises LabUnavailable where the machine cannot run a lab; anything raises LabError if it broke.
    """

    def __init__(
        self,
        hosts: int,
        *,
        delay_ms: float = 0.0,
        jitter_ms: float = 0.0,
        loss: float = 0.0,
        rate_mbit: float | None = None,
        reorder: bool = False,
        mtu: int = 1500,
        seed: int = 0,
        behind_nat: Collection[int] = (),
    ) -> None:
        """Describe a network; it comes up on entering. ValueError for values that no network has.

        delay_ms: one way, between any two hosts.
        jitter_ms: mean of the exponentially distributed extra delay of each packet.
        loss: chance of each packet to be lost.
        rate_mbit: upload rate of each host in 10^6 bits/s; None: unlimited.
        reorder: whether jitter may let packets of a pair overtake each other. Real links hardly do that.
        mtu: bytes of the largest packet.
        seed: of the generator that draws losses and jitter.
        behind_nat: hosts that hear only from an address and port to which they have sent.
        """
        self._links = Links(
            hosts=hosts,
            delay_ms=delay_ms,
            jitter_ms=jitter_ms,
            loss=loss,
            rate_mbit=rate_mbit,
            reorder=reorder,
            seed=seed,
            behind_nat=tuple(behind_nat),
        )
        if not 576 <= mtu <= 65535:
            raise ValueError(f"an MTU has 576 to 65535 bytes, not {mtu}")
        self._mtu = mtu
        self._hosts: list[Host] = []
        self._router: Router | None = None
        self._programs: list[subprocess.Popen[Any]] = []
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        """Bring the network up."""
        if self._router is not None:
            raise LabError("this lab is up already")
        require_lab_support()
        with ExitStack() as resources:
            signals = resources.enter_context(EndingSignals())
            remove_stale_labs()
            number = resources.enter_context(claim_lab())
            hosts = [Host(number, index) for index in range(self._links.hosts)]
            namespaces = [host.namespace for host in hosts]
            resources.callback(remove_namespaces, namespaces)
            resources.callback(self._forget)
            self._router = self._start_router(hosts)
            resources.callback(self._router.stop)
            resources.callback(self._end_programs, namespaces)
            resources.callback(signals.pass_over)  # the first step down: nothing interrupts the others
            self._hosts = hosts
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take everything down. Ctrl-C, SIGTERM and SIGHUP are passed over until that is done."""
        self._resources.close()

    @property
    def hosts(self) -> range:
        """Numbers of the hosts."""
        return range(self._links.hosts)

    def address(self, host: int) -> str:
        """IPv4 address of a host."""
        return self._host(host).address

    def namespace(self, host: int) -> str:
        """Name of a host's namespace, for `ip netns exec NAME PROGRAM` in another terminal."""
        return self._host(host).namespace

    def popen(self, host: int, argv: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:
        """Start a program on a host; `options` as of subprocess.Popen. Its `pid` is the program's own.

        It has a session of its own unless `start_new_session=False`: Ctrl-C reaches the lab, which ends it.
        """
        options.setdefault("start_new_session", True)
        program = subprocess.Popen(["ip", "netns", "exec", self._host(host).namespace, *argv], **options)
        self._programs.append(program)
        return program

    def set_delay(self, ms: float, a: int | None = None, b: int | None = None) -> None:
        """One-way delay becomes `ms`: between hosts `a` and `b`, both ways, or between all if none is named.

        Packets on their way keep their time, and later ones of their pair stay behind them.
        """
        if (a is None) != (b is None):
            raise ValueError("a delay is set for a pair of hosts or for all: name two hosts or none")
        pair = None if a is None or b is None else (self._host(a).index, self._host(b).index)
        self._ask(SetDelay(ms, pair))

    def set_loss(self, probability: float) -> None:
        """Each packet is lost with this probability, 0 to 1."""
        self._ask(SetLoss(probability))

    def set_rate(self, mbit: float | None, host: int | None = None) -> None:
        """One host, or each if none is named, uploads at most `mbit` 10^6 bits/s; None: unlimited."""
        self._ask(SetRate(mbit, None if host is None else self._host(host).index))

    def cut(self, host: int) -> None:
        """A host drops off the network, packets on their way to it included; its programs run on."""
        self._ask(Cut(self._host(host).index))

    def heal(self, host: int) -> None:
        """A cut host is back."""
        self._ask(Heal(self._host(host).index))

    def traffic(self) -> dict[tuple[int, int], Traffic]:
        """What was carried since the start or `reset_traffic`, by (source, destination); none: no entry."""
        report = self._ask(GetTraffic())
        if not isinstance(report, TrafficReport):
            raise LabError(f"the lab's router answers {report} when asked for its traffic")
        return {(src, dst): traffic for src, dst, traffic in report.rows}

    def reset_traffic(self) -> None:
        """Count from zero."""
        self._ask(ResetTraffic())

    def _start_router(self, hosts: list[Host]) -> Router:
        with ExitStack() as devices:
            tuns = []
            for host in hosts:
                tun = create_host(host, self._mtu)
                devices.callback(os.close, tun)
                tuns.append(tun)
            return Router.start(Start(subnet(hosts[0].lab), self._links), tuns)

    def _end_programs(self, namespaces: list[str]) -> None:
        """End what `popen` started, even if it is only about to enter its host, and all that it started."""

        def running() -> set[int]:
            return {p.pid for p in self._programs if p.poll() is None} | processes_in(namespaces)

        end_processes(running)
        self._programs.clear()

    def _forget(self) -> None:
        self._hosts, self._router = [], None

    def _host(self, number: int) -> Host:
        if not self._hosts:
            raise LabError("the lab is not up: use it as `with Lab(...) as lab:`")
        if number not in self.hosts:
            raise ValueError(f"the lab has hosts 0 to {len(self._hosts) - 1}, not {number}")
        return self._hosts[number]

    def _ask(self, command: Command) -> Reply:
        if self._router is None:
            raise LabError("the lab is not up: use it as `with Lab(...) as lab:`")
        return self._router.ask(command)
