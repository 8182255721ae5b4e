"""The machine beneath a benchmark: what it is, and what it is doing."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

_STAT, _PROCESSORS = Path("/proc/stat"), Path("/proc/cpuinfo")
_STEP, _LONGEST = 0.2, 10.0  # seconds
_CALM = 0.8  # share of the time that no core has anything to do


def describe() -> str:
    """On what figures were measured: cores, processor and interpreter, in words."""
    lines = _PROCESSORS.read_text().splitlines() if _PROCESSORS.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = next(names, platform.machine())
    return f"{os.cpu_count()} cores, {processor}, {platform.python_implementation()} {platform.python_version()}"


def await_calm() -> None:
    """Wait until it has little to do, for 10 s at most.

    Who has just joined measures the links to all others, and each of their daemons computes for that: on machines of
    their own nobody would notice, on a lab's few cores a generation does.
    """
    deadline = time.monotonic() + _LONGEST
    idle, whole = _ticks()
    while time.monotonic() < deadline:
        time.sleep(_STEP)
        before = idle, whole
        idle, whole = _ticks()
        if idle - before[0] >= _CALM * (whole - before[1]):
            return


def _ticks() -> tuple[int, int]:
    """Of all cores since the start: without anything to do, and in all."""
    ticks = [int(field) for field in _STAT.read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
