"""The lab itself, where it can run: root on Linux."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.lab import Lab, LabError, LabUnavailable
from benchmarks.lab.machines import machines
from benchmarks.lab.namespaces import processes_in

ROOT = Path(__file__).parents[1]

ECHO = """
import socketserver, sys

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(100):
            self.request.sendall(data)

with socketserver.ThreadingTCPServer((sys.argv[1], 9000), Echo) as server:
    print("ready", flush=True)
    server.serve_forever()
"""

# prints the shortest of ten round trips in ms, or the error
PING = """
import socket, sys, time
try:
    with socket.create_connection((sys.argv[1], 9000), timeout=float(sys.argv[2])) as server:
        trips = []
        for _ in range(10):
            start = time.monotonic()
            server.sendall(b"?")
            server.recv(100)
            trips.append(time.monotonic() - start)
    print(1e3 * min(trips))
except OSError as error:
    print(type(error).__name__)
"""

# prints the bits/s of the payload between the first and the last datagram
SINK = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
    sink.bind((sys.argv[1], 9001))
    print("ready", flush=True)
    sizes, times = [], []
    sink.settimeout(10)
    while True:
        try:
            sizes.append(len(sink.recv(2000)))
        except TimeoutError:
            break
        times.append(time.monotonic())
        sink.settimeout(0.5)
print(8 * sum(sizes[1:]) / (times[-1] - times[0]))
"""

# prints its processor time of a second
SPIN = """
import time
end = time.monotonic() + 1
while time.monotonic() < end:
    pass
print(time.process_time())
"""

FLOOD = """
import socket, sys, time
end = time.monotonic() + 1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
    while time.monotonic() < end:
        for _ in range(5):
            source.sendto(bytes(1000), (sys.argv[1], 9001))
        time.sleep(0.002)
"""

OWNER = """
import signal, time
from benchmarks.lab import Lab
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
with Lab(hosts=2) as lab:
    lab.popen(1, ["sh", "-c", "sleep 600 & sleep 600"])
    print(lab.namespace(0), lab.namespace(1), flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    with ExitStack() as after_lab, ExitStack() as resources:
        try:
            lab = resources.enter_context(Lab(hosts=3))
        except LabUnavailable as reason:
            pytest.skip(str(reason))
        after_lab.push(start(lab, 1, ECHO, lab.address(1)))
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Lab:
    shared_lab.set_delay(25)
    shared_lab.set_loss(0)
    shared_lab.set_rate(None)
    for host in shared_lab.hosts:
        shared_lab.heal(host)
    shared_lab.reset_traffic()
    return shared_lab


def start(lab: Lab, host: int, script: str, *arguments: str) -> "subprocess.Popen[str]":
    """A Python program that has said it is ready."""
    program = lab.popen(host, [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    return program


def ping(lab: Lab, src: int = 0, dst: int = 1, patience_s: float = 10.0) -> str:
    argv = [sys.executable, "-c", PING, lab.address(dst), str(patience_s)]
    with lab.popen(src, argv, stdout=subprocess.PIPE, text=True) as program:
        output: str = program.communicate()[0]
    return output.strip()


def eventually(condition: Callable[[], bool], patience_s: float = 10.0) -> bool:
    deadline = time.monotonic() + patience_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def namespaces() -> set[str]:
    return {path.name for path in Path("/run/netns").glob("*")}


def running(pid: int) -> bool:
    """Whether a process has not ended; one that only waits to be reaped has."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_round_trip_takes_twice_the_delay(lab: Lab) -> None:
    assert 50 <= float(ping(lab)) < 53


def test_delay_can_be_set_for_one_pair_while_the_lab_runs(lab: Lab) -> None:
    lab.set_delay(5)
    lab.set_delay(40, 1, 2)
    assert 10 <= float(ping(lab, src=0)) < 13
    assert 80 <= float(ping(lab, src=2)) < 83


def test_cut_host_is_unreachable_until_healed(lab: Lab) -> None:
    lab.cut(1)
    assert ping(lab, patience_s=1) == "TimeoutError"
    lab.heal(1)
    assert float(ping(lab)) >= 50


def test_everything_is_lost_at_a_loss_of_one(lab: Lab) -> None:
    lab.set_loss(1)
    lab.reset_traffic()
    assert ping(lab, patience_s=1) == "TimeoutError"
    assert lab.traffic() == {}


def test_traffic_of_a_conversation_is_counted_both_ways(lab: Lab) -> None:
    ping(lab)
    for way in ((0, 1), (1, 0)):
        traffic = lab.traffic()[way]
        assert 10 <= traffic.packets < 100
        assert 41 * 10 <= traffic.bytes < 100 * traffic.packets


@pytest.mark.parametrize("host", [None, 0], ids=["all hosts", "one"])
def test_rate_limits_what_a_host_uploads(lab: Lab, host: int | None) -> None:
    lab.set_rate(4, host)
    sink = start(lab, 2, SINK, lab.address(2))
    lab.popen(0, [sys.executable, "-c", FLOOD, lab.address(2)]).wait()
    with sink:
        assert 2e6 < float(sink.communicate()[0]) < 4.2e6


def test_host_reaches_nothing_outside_the_lab(lab: Lab) -> None:
    script = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    with lab.popen(0, [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as program:
        assert "Network is unreachable" in program.communicate()[1]


def test_hosts_that_do_not_exist_are_refused(lab: Lab) -> None:
    with pytest.raises(ValueError, match="hosts 0 to 2, not 3"):
        lab.cut(3)
    with pytest.raises(ValueError, match="hosts 0 to 2, not 3"):
        lab.set_rate(1, 3)
    with pytest.raises(ValueError, match="two hosts or none"):
        lab.set_delay(10, 1)


def test_leaving_by_an_exception_leaves_nothing_behind(shared_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.lab.namespaces.PATIENCE_S", 0.3)
    own_lab = Lab(hosts=2)
    with pytest.raises(KeyboardInterrupt), own_lab:
        assert own_lab.address(0) != shared_lab.address(0)
        stubborn = own_lab.popen(0, ["sh", "-c", "trap '' TERM; sleep 600 & sleep 600; sleep 600"])
        names = {own_lab.namespace(host) for host in own_lab.hosts}
        pids = family(own_lab.namespace(0))
        raise KeyboardInterrupt
    assert not namespaces() & names
    assert stubborn.returncode == -signal.SIGKILL
    assert not any(running(pid) for pid in pids)
    with pytest.raises(LabError, match="not up"):
        own_lab.address(0)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, -signal.SIGINT)]
)
def test_signals_take_the_lab_down(shared_lab: Lab, number: signal.Signals, status: int) -> None:
    with lab_owner() as (owner, names):
        pids = family(names[1])
        owner.send_signal(number)
        assert owner.wait(20) == status
    assert not namespaces() & set(names)
    assert not any(running(pid) for pid in pids)


def test_signal_handlers_are_the_programs_own_again_after_a_lab(shared_lab: Lab) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with Lab(hosts=1):
        pass
    assert [signal.getsignal(number) for number in numbers] == before


def test_next_lab_removes_what_a_killed_one_left(shared_lab: Lab) -> None:
    with lab_owner() as (owner, names):
        pids = family(names[1])
        owner.kill()
    assert set(names) <= namespaces()
    with Lab(hosts=1) as next_lab:
        assert not namespaces() & set(names) - {next_lab.namespace(0)}
        assert not any(running(pid) for pid in pids)
    assert shared_lab.namespace(0) in namespaces()


def test_what_a_machine_lacks_for_a_lab_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabUnavailable, match="as root"):
        Lab(hosts=2).__enter__()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LabUnavailable, match="install iproute2"):
        Lab(hosts=2).__enter__()


@contextmanager
def lab_owner() -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """Another program with a lab of its own, and the names of its namespaces."""
    argv = [sys.executable, "-c", OWNER]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            yield owner, owner.stdout.readline().split()
        finally:
            owner.kill()


def family(namespace: str) -> set[int]:
    """Ids of a shell and its two children, once all run there."""
    assert eventually(lambda: len(processes_in([namespace])) == 3)
    return processes_in([namespace])


def test_hosts_have_a_share_of_the_processors_each_and_leave_nothing_behind() -> None:
    try:
        with machines(2, 0.25) as shares, Lab(hosts=2) as lab:
            folder = shares._folder
            programs = [
                shares.of(lab).popen(host, [sys.executable, "-c", SPIN], stdout=subprocess.PIPE, text=True)
                for host in (0, 1)
            ]
            seconds = [float(program.communicate()[0]) for program in programs]
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    assert all(each < 0.6 for each in seconds)
    assert not folder.exists()
