"""Simulated machines: what shares cores, and how long it takes."""

from __future__ import annotations

import pytest
import simpy

from simulator.hosts import Host, Link, Machine, Network, Protocol, SharedMachine, Thread, after, chance


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
    ("cores", "switch", "ends"),
    [
        (1, 0.0, {"a": 1.5, "b": 3.5, "c": 2.5}),
        (2, 0.0, {"a": 1.0, "b": 2.5, "c": 2.0}),
        (1, 0.5, {"a": 1.5, "b": 4.5, "c": 3.5}),
        (2, 0.5, {"a": 1.0, "b": 2.5, "c": 2.0}),
    ],
)
def test_work_shares_the_cores_evenly_and_takes_longer_if_it_finds_them_taken(
    cores: int, switch: float, ends: dict[str, float]
) -> None:
    """a: 1 s of work; b: 2 s, from 0.5 on; c: 0.5 s, when a may be done."""
    machine = SharedMachine(simpy.Environment(), cores, switch)
    found = finished(machine, {"a": (0.0, 1.0), "b": (0.5, 2.0), "c": (1.5, 0.5)})
    assert found == pytest.approx(ends)


def test_a_thread_does_one_thing_after_the_other() -> None:
    machine = SharedMachine(simpy.Environment(), 2)
    thread, ends = Thread(machine), list[float]()
    for seconds in (1.0, 2.0):
        thread.run(seconds, lambda: ends.append(machine.env.now))
    machine.env.run()
    assert ends == pytest.approx([1.0, 3.0])
    assert thread.busy_seconds == 3.0


@pytest.mark.parametrize("cores", [1, 4])
def test_a_long_message_is_not_overtaken_by_a_short_one_on_the_same_stream(cores: int) -> None:
    env = simpy.Environment()
    network = Network(env, lambda one, other: Link(0.01), Protocol(1e-3, 1e-6), chance(1, "links"))
    here, there = (Host(name, SharedMachine(env, cores), name, None) for name in ("here", "there"))
    found: list[tuple[str, float]] = []
    for name, size in (("long", 100_000), ("short", 10)):
        network.send(here, there, size, lambda name: found.append((name, env.now)), name)
    env.run()
    assert [name for name, _ in found] == ["long", "short"]
    assert [at for _, at in found] == pytest.approx([0.01 + 2 * 0.101, 0.01 + 2 * 0.101 + 0.00101])
