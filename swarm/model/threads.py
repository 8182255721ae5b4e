"""How many processor threads compute: no more than this machine has cores free, and no more than make rounds faster.

Where several programs share the cores, threads that wait for each other hold all of them up. So one is taken, and
more only where the stage itself, measured at that time, takes much less time with them. The number is chosen once:
a flat form is made and proven at the number at which it runs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from statistics import median

import psutil
import torch

from swarm.model.speed import MANY, round_seconds
from swarm.model.stage import Stage

_LOOK_SECONDS = 0.3
_GAIN = 1.3
"""So many times as fast must rounds be with twice the threads: these are lacking elsewhere."""
_TURNS = 5
_TURNS_SECONDS = 2.0  # in which at least one turn is taken
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a program sees of the machine it is on."""

    cores: int
    """That it may use."""
    idle: float
    """How many of them have had nothing to do of late."""
    peers: int
    """Other peers on this machine, each of which computes as soon as there are clients."""


def look() -> Machine:
    """See what is free now; takes 0.3 s."""
    busy = psutil.cpu_percent(_LOOK_SECONDS, percpu=True)
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(busy))
    idle = sum(1 - percent / 100 for core, percent in enumerate(busy) if core in mine)
    return Machine(num_cores(), idle, sum(map(_is_other_peer, psutil.process_iter(["cmdline"]))))


def num_cores() -> int:
    """Cores that this process may use: by affinity and by the quotas of its control groups."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([mine, *map(math.floor, _quotas(_CGROUPS, Path("/proc/self/cgroup")))]))


def most(machine: Machine) -> int:
    """Threads that leave the others their cores: an equal share for each peer, and none that is busy by now."""
    return max(1, min(machine.cores // (machine.peers + 1), round(machine.idle)))


def limit(wanted: int | None) -> None:
    """Before loading: let torch have the threads that are wanted, or those that are free, within its own choice,
    which knows OMP_NUM_THREADS and counts no core twice."""
    if wanted is not None:
        torch.set_num_threads(wanted)
    elif torch.get_num_threads() > 1:
        torch.set_num_threads(min(torch.get_num_threads(), most(look())))


def settle(stage: Stage) -> None:
    """Of the threads that torch may use, keep so many as pay: twice as many as long as that is much faster."""
    available, chosen = torch.get_num_threads(), 1
    while chosen < available and _pays(stage, chosen, more := min(2 * chosen, available)):
        chosen = more
    torch.set_num_threads(chosen)


def _pays(stage: Stage, few: int, many: int) -> bool:
    """Whether rounds are much faster with `many` threads; measured by turns, for others come and go meanwhile."""
    seconds: dict[int, list[float]] = {few: [], many: []}
    for _ in range(_TURNS):
        for threads, found in seconds.items():
            torch.set_num_threads(threads)
            round_seconds(stage, 1)  # starts or ends threads
            found.append(round_seconds(stage, 1) + round_seconds(stage, MANY))
        if sum(map(sum, seconds.values())) > _TURNS_SECONDS:
            break
    return median(seconds[few]) > _GAIN * median(seconds[many])


def _is_other_peer(process: psutil.Process) -> bool:
    words = process.info["cmdline"] or ()
    return process.pid != os.getpid() and "join" in words and "specswarm" in {PurePath(word).name for word in words}


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """Cores that this process's control groups with a limit allow, and those around them."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux
        return
    groups = [
        root / controllers / path.lstrip("/") for _, controllers, path in (line.split(":", 2) for line in lines)
    ]
    for folder in {folder for group in groups for folder in (group, *group.parents)}:
        for name in ("cpu.max", "cpu.cfs_quota_us"):  # of either version
            yield from _quota(folder / name)


def _quota(file: Path) -> Iterator[float]:
    """What one such file allows, if it does not allow all."""
    try:
        words = file.read_text().split()
        period = words[1] if len(words) > 1 else file.with_name("cpu.cfs_period_us").read_text()
        if int(words[0]) > 0:
            yield int(words[0]) / int(period)
    except (OSError, ValueError, IndexError):  # there is none, or it says "max"
        return
