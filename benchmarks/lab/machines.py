"""Hosts of a lab as machines of their own: each has a share of this one's processors, and no more.

By the kernel's control groups, of version 1 or 2. Without them whatever one host computes makes all others slower.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lab.errors import LabUnavailable
from benchmarks.lab.lab import Lab

_ROOT = Path("/sys/fs/cgroup")
_QUOTA_US = 1000  # that a host computes at a time, the least there is, so that it does not stand still for long


class Machines:
    """A group of each host's programs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, lab: Lab) -> MachineLab:
        """A lab whose programs start in their hosts' groups."""
        return MachineLab(lab, self._folder)


class MachineLab:
    """A lab, as `Lab` is."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab = lab
        self._folder = folder

    def popen(self, host: int, argv: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:
        """As Lab.popen."""
        program = self._lab.popen(host, argv, **options)
        (self._folder / str(host) / "cgroup.procs").write_text(str(program.pid))  # and all that it starts
        return program

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lab, name)


@contextlib.contextmanager
def machines(hosts: int, share: float) -> Iterator[Machines]:
    """So many hosts with `share` of one processor each; their programs end before the block does. Raises
    LabUnavailable where there are no control groups."""
    is_second = (_ROOT / "cgroup.controllers").exists()
    folder = (_ROOT if is_second else _ROOT / "cpu") / f"specswarm-lab-{os.getpid()}"
    with contextlib.ExitStack() as made:
        try:
            _make(folder, made, {"cgroup.subtree_control": "+cpu"} if is_second else {})
            for host in range(hosts):
                _make(folder / str(host), made, _limits(int(_QUOTA_US / share), is_second=is_second))
        except OSError as error:
            raise LabUnavailable(f"hosts get no shares of the processors ({error}): run it as root") from None
        yield Machines(folder)


def _limits(period_us: int, *, is_second: bool) -> dict[str, str]:
    """Of a group: what to write into which file."""
    if is_second:
        return {"cpu.max": f"{_QUOTA_US} {period_us}"}
    return {"cpu.cfs_period_us": str(period_us), "cpu.cfs_quota_us": str(_QUOTA_US)}


def _make(group: Path, made: contextlib.ExitStack, limits: dict[str, str]) -> None:
    group.mkdir()
    made.callback(group.rmdir)
    for file, value in limits.items():
        (group / file).write_text(value)
