"""Simulated machines: what shares cores, and how long it takes."""

from __future__ import annotations

import pytest
import simpy

from simulator.hosts import Machine, SharedMachine, Thread, after


def finished(machine: Machine, jobs: dict[str, tuple[float, float]]) -> dict[str, float]:
    """When each is done; `jobs`: when it comes, and its seconds of work."""
    found: dict[str, float] = {}

    def done(name: str) -> None:
        found[name] = machine.env.now

    for name, (at, seconds) in jobs.items():
        after(machine.env, at, machine.run, seconds, done, name)
    machine.env.run()
    return found


def test_a_machine_of_ones_own_has_cores_for_everything() -> None:
    jobs = {"a": (0.0, 1.0), "b": (0.5, 1.0), "c": (0.5, 3.0)}
    assert finished(Machine(simpy.Environment()), jobs) == pytest.approx({"a": 1.0, "b": 1.5, "c": 3.5})


@pytest.mark.parametrize(
    ("cores", "slowdown", "ends"),
    [
        (1, 0.0, {"a": 1.5, "b": 3.5, "c": 2.5}),
        (2, 0.0, {"a": 1.0, "b": 2.5, "c": 2.0}),
        (1, 1.0, {"a": 2.5, "b": 5.5, "c": 4.5}),
    ],
)
def test_work_shares_the_cores_evenly_and_takes_longer_while_it_does(
    cores: int, slowdown: float, ends: dict[str, float]
) -> None:
    """a: 1 s of work; b: 2 s, from 0.5 on; c: 0.5 s, when a may be done."""
    machine = SharedMachine(simpy.Environment(), cores, slowdown)
    start = 1.5 if not slowdown else 2.5
    found = finished(machine, {"a": (0.0, 1.0), "b": (0.5, 2.0), "c": (start, 0.5)})
    assert found == pytest.approx(ends)


def test_a_thread_does_one_thing_after_the_other() -> None:
    machine = SharedMachine(simpy.Environment(), 2)
    thread, ends = Thread(machine), list[float]()
    for seconds in (1.0, 2.0):
        thread.run(seconds, lambda: ends.append(machine.env.now))
    machine.env.run()
    assert ends == pytest.approx([1.0, 3.0])
    assert thread.busy_seconds == 3.0
