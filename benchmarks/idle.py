"""How much of a generation's time neither the draft nor any stage computes, with rounds in flight and without."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bar import Bar
from benchmarks.deployment import deployed
from benchmarks.lab import Lab

DELAY_MS = 25.0
SETTINGS: dict[str, dict[str, Any]] = {"one in flight": {"in_flight": 1}, "auto": {}}

IDLE = Bar("4 peers, 25 ms, T 0: idle share with rounds in flight, of that without", 0.667, "x")

Interval = tuple[float, float]
"""From when until when, seconds."""


def run(spans: Sequence[str], texts: Sequence[str], tokens: int, folder: Path) -> dict[str, float]:
    """The idle share of each setting; they take turns, prompt by prompt."""
    folder.mkdir()
    times: dict[str, list[Interval]] = {name: [] for name in SETTINGS}
    with (
        Lab(hosts=len(spans) + 2, delay_ms=DELAY_MS) as lab,
        deployed(lab, "embedded", spans, folder, popen=partial(_traced, folder)) as (initial_peers, client),
    ):
        client.connect(model="embedded", initial_peers=initial_peers, draft="embedded-draft", threads=1)
        for text in texts:
            for name, setting in SETTINGS.items():
                started = time.monotonic()
                client.generate(text, max_new_tokens=tokens, **setting)
                times[name].append((started, time.monotonic()))
    busy = [interval for file in folder.glob("*.trace") for interval in _read(file)]
    return {name: idle_share(busy, windows) for name, windows in times.items()}


def idle_share(busy: Iterable[Interval], windows: Iterable[Interval]) -> float:
    """Of the windows' time, the share in no busy interval."""
    merged = union(busy)
    whole = covered = 0.0
    for start, end in windows:
        whole += end - start
        covered += sum(max(min(until, end) - max(since, start), 0.0) for since, until in merged)
    return 1 - covered / whole


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time as intervals that do not touch."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _traced(folder: Path, lab: Lab, host: int, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start one of our modules on a host, and have it write down when it computes."""
    python, _, *rest = argv
    return lab.popen(host, [python, "-m", "benchmarks.traced", str(folder / f"{host}.trace"), *rest], **options)


def _read(file: Path) -> list[Interval]:
    lines = (line.split() for line in file.read_text().splitlines())
    return [(float(start), float(end)) for start, end in (line for line in lines if len(line) == 2)]
