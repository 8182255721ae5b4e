"""Hosts as network namespaces: claimed, made, found again after a crash, removed with the processes in them.

A lab has a number, held by a lock on /run/specswarm-lab/NUMBER which the kernel frees when the lab ends in
whatever way. From the number come the names and the subnet, so labs that run at the same time never collide,
and namespaces whose number nobody holds are what a crashed lab left:

    namespace   specswarm-NUMBER-HOST      interface   sslabNUMBER-HOST
    address     10.77.NUMBER.(HOST + 1)    hosts and numbers from 0

No route leads from a host to the machine or beyond, and the machine has no address in these subnets, so a
subnet that the machine's own network uses as well does no harm.
"""

import fcntl
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.errors import LabError, LabUnavailable

MAX_LABS = 256
"""Labs on one machine at one time."""

PATIENCE_S = 5.0
"""Seconds that processes have to end after TERM, and again after KILL."""

_TUN_DEVICE = Path("/dev/net/tun")
_CLAIMS = Path("/run/specswarm-lab")
_NAMESPACES = Path("/run/netns")
_NAME = re.compile(r"specswarm-(\d+)-\d+")

# linux/if_tun.h: one packet per read and write, without a header of the device's own
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


@dataclass(frozen=True, slots=True)
class Host:
    """One host of one lab: what it is called and where it is reached."""

    lab: int
    index: int

    @property
    def namespace(self) -> str:
        """Name of its network namespace, as `ip netns exec` takes it."""
        return f"specswarm-{self.lab}-{self.index}"

    @property
    def interface(self) -> str:
        """Name of its only interface besides loopback; at most 15 characters."""
        return f"sslab{self.lab}-{self.index}"

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return f"{subnet(self.lab)}.{self.index + 1}"


def subnet(lab: int) -> str:
    """First three bytes of the addresses of a lab's hosts."""
    return f"10.77.{lab}"


def require_lab_support() -> None:
    """LabUnavailable, with what is needed, if this machine lacks something that shows beforehand."""
    if os.geteuid() != 0:
        raise LabUnavailable("the lab makes network namespaces: run it as root, on Linux")
    if shutil.which("ip") is None:
        raise LabUnavailable("the lab needs the `ip` command: install iproute2")
    if not _TUN_DEVICE.is_char_device():
        raise LabUnavailable(
            f"the lab needs {_TUN_DEVICE}: load the kernel module tun, or lend it to the container"
        )


@contextmanager
def claim_lab() -> Iterator[int]:
    """Hold the first free lab number; what an earlier holder left is removed."""
    for number in range(MAX_LABS):
        with _claim(number) as held:
            if held:
                yield number
                return
    raise LabError(f"all {MAX_LABS} labs that this machine can have are up")


def remove_stale_labs() -> None:
    """Remove the namespaces that crashed labs left, and end the processes in them."""
    for number in {lab for _, lab in _existing()}:
        with _claim(number):
            pass


def remove_namespaces(names: Collection[str]) -> None:
    """End every process in these namespaces and delete them; those that do not exist are passed over."""
    end_processes(lambda: processes_in(names))
    for name in names:
        if (_NAMESPACES / name).exists():
            _ip("netns", "del", name)


def create_host(host: Host, mtu: int) -> int:
    """Make the host's namespace and interface; returns its TUN file descriptor, the caller's to close.

    The descriptor does not block. Closing it removes the interface; `remove_namespaces` removes the rest.
    `mtu` in bytes.
    """
    try:
        _ip("netns", "add", host.namespace)
        tun = _open_tun(host.interface)
    except (LabError, OSError) as error:
        raise LabUnavailable(
            f"the lab needs CAP_SYS_ADMIN and CAP_NET_ADMIN, as a real root has: {error}"
        ) from error
    try:
        _ip("link", "set", host.interface, "netns", host.namespace)
        _ip(
            *("-n", host.namespace, "-batch", "-"),
            commands=f"link set lo up\n"
            f"addr add {host.address}/24 dev {host.interface}\n"
            f"link set {host.interface} mtu {mtu} txqueuelen 5000 up\n",
        )
    except BaseException:
        os.close(tun)
        raise
    return tun


def processes_in(names: Collection[str]) -> set[int]:
    """Ids of the processes that run in these namespaces."""
    wanted = set()
    for name in names:
        with suppress(FileNotFoundError):
            wanted.add(_identity(_NAMESPACES / name))
    if not wanted:
        return set()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            if _identity(process / "ns/net") in wanted:
                found.add(int(process.name))
    return found


def end_processes(find: Callable[[], Collection[int]]) -> None:
    """End the processes that `find` finds: TERM first, KILL for those still found `PATIENCE_S` later."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for pid in find():
            with suppress(ProcessLookupError):
                os.kill(pid, kind)
        deadline = time.monotonic() + PATIENCE_S
        while find() and time.monotonic() < deadline:
            time.sleep(0.02)


@contextmanager
def _claim(number: int) -> Iterator[bool]:
    """Try to hold a lab number, and if so remove what an earlier holder left; tells whether it is held.

    Lock files stay for good: deleting one would race with another lab that opens it.
    """
    _CLAIMS.mkdir(exist_ok=True)
    with (_CLAIMS / str(number)).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = False
        else:
            held = True
            remove_namespaces([name for name, lab in _existing() if lab == number])
        yield held


def _existing() -> list[tuple[str, int]]:
    """Name and lab number of every namespace of a lab."""
    matches = (_NAME.fullmatch(path.name) for path in _NAMESPACES.glob("*"))
    return [(match[0], int(match[1])) for match in matches if match]


def _open_tun(name: str) -> int:
    tun = os.open(_TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except BaseException:
        os.close(tun)
        raise
    return tun


def _identity(namespace: Path) -> tuple[int, int]:
    status = namespace.stat()
    return status.st_dev, status.st_ino


def _ip(*arguments: str, commands: str | None = None) -> None:
    done = subprocess.run(
        ["ip", *arguments],
        input=commands,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # so that Ctrl-C does not stop it half way
    )
    if done.returncode != 0:
        raise LabError(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")
