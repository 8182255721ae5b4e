"""A scenario, with each combination of changed keys, with each seed: on all cores, and always the same."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import active_children
from typing import Any

from simulator.figures import Figures
from simulator.scenario import Scenario
from simulator.swarm import Swarm
from swarm.errors import UsageError
from swarm.lifetime import signals_wait

_MADE = 50_000  # objects, after which it is looked for those that hold each other: events seldom do

Change = Mapping[str, Any]
"""By the path of a key, its value."""


@dataclass(frozen=True, slots=True)
class Point:
    """One combination, over all seeds."""

    change: Change
    runs: tuple[Figures, ...]
    """By seed."""


def combinations(sweeps: Sequence[str]) -> list[dict[str, Any]]:
    """Of sweeps `key=a,b,c`, each value of one with each of the others. Raises UsageError."""
    columns = []
    for sweep in sweeps:
        key, equals, values = sweep.partition("=")
        if not (key and equals and values):
            raise UsageError(
                f"--sweep {sweep}: give a key of the scenario and its values, such as link.delay_ms=5,20"
            )
        columns.append([(key.strip(), _value(text)) for text in values.split(",")])
    return [dict(chosen) for chosen in itertools.product(*columns)]


def run(scenario: Scenario, seed: int) -> Figures:
    """One run."""
    swarm = Swarm(scenario, seed)
    gc.collect()
    gc.freeze()  # what is there by now stays, and need not be looked at again and again
    usual = gc.get_threshold()
    gc.set_threshold(_MADE, *usual[1:])
    try:
        swarm.run()
    finally:
        gc.set_threshold(*usual)
    return swarm.figures()


def sweep(
    scenarios: Sequence[tuple[Change, Scenario]], seeds: int, done: Callable[[], None], workers: int | None = None
) -> Iterator[Point]:
    """A point for each scenario, in order; `done` is called after each run. On `workers` processes, by default one for
    each core."""
    jobs = [(scenario, seed) for _, scenario in scenarios for seed in range(1, seeds + 1)]
    count = min(workers or os.cpu_count() or 1, len(jobs))
    found: list[Figures] = []
    if count == 1:
        for scenario, seed in jobs:
            found.append(run(scenario, seed))
            done()
    else:
        others = set(active_children())
        with ProcessPoolExecutor(count) as pool:
            try:
                with signals_wait():  # a worker that is just being started could not be ended
                    results = pool.map(run, *zip(*jobs, strict=True))
                for figures in results:
                    found.append(figures)
                    done()
            except BaseException:  # Ctrl-C, say: the pool would wait for the runs that have begun
                for worker in set(active_children()) - others:
                    worker.kill()
                raise
    for i, (change, _) in enumerate(scenarios):
        yield Point(change, tuple(found[i * seeds : (i + 1) * seeds]))


def _value(text: str) -> Any:
    """A number, a truth value, or a word."""
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
