"""How fast the simulator is: events a second, an hour of ten thousand clients, a route among a thousand peers."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import simpy

from benchmarks.bar import Bar
from client.routing import Atlas, plan
from simulator.experiments import run
from simulator.hosts import Steps
from simulator.population import Population
from simulator.scenario import load
from simulator.swarm import Swarm
from swarm.records import Announcement

THOUSAND = Path("configs/scenarios/thousand.toml")
MODES: Mapping[str, Mapping[str, Any]] = {
    "plain": {"clients.window": 0},
    "chain of 6": {},
    "auto": {"clients.window": "auto", "clients.tree": True, "clients.in_flight": "auto"},
}
_SECONDS = 60.0  # of virtual time, in which events are counted
_ROUTES = 50
_PROCESSES, _WAITS = 10_000, 100

EVENTS = Bar("events a second on one core, chains of 6", 100_000, "events/s", is_floor=True)
HOUR = Bar("an hour of 1,000 peers and 10,000 clients", 300, "s")
ROUTE = Bar("a route among 1,000 peers, median", 5, "ms")
BARS = (EVENTS, HOUR, ROUTE)


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one mode."""

    mode: str
    events_per_second: float
    ms_per_request: float


def events() -> list[Speed]:
    """Of each mode, on one core."""
    found = []
    for mode, changes in MODES.items():
        scenario = load(THOUSAND, {"seconds": _SECONDS, **changes})
        started = time.process_time()
        figures = run(scenario, 1)
        seconds = time.process_time() - started
        found.append(Speed(mode, figures.events / seconds, 1e3 * seconds / figures.requests))
    return found


def simpy_alone() -> float:
    """Events a second of SimPy by itself, on one core: as many processes as there are clients, which only wait."""
    env, chance = simpy.Environment(), np.random.default_rng(1)

    def wait(seconds: list[float]) -> Steps:
        for one in seconds:
            yield env.timeout(one)

    for seconds in chance.exponential(size=(_PROCESSES, _WAITS)).tolist():
        env.process(wait(seconds))
    started = time.process_time()
    env.run()
    return _PROCESSES * _WAITS / (time.process_time() - started)


def hour() -> dict[str, float]:
    """What an hour of it takes, and what came of the requests."""
    started = time.perf_counter()
    figures = run(load(THOUSAND), 1)
    return {
        "seconds": time.perf_counter() - started,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "requests": figures.requests,
        "finished": figures.finished,
        "tokens": figures.tokens,
        "tokens_per_second_of_a_request": figures.request_tokens_per_second,
        "first_token_s": figures.first_token.mean,
        "first_token_p99_s": figures.first_token.p99,
        "reroutes": figures.reroutes,
        "stall_s": figures.stalls.mean,
        "stall_p99_s": figures.stalls.p99,
        "events": figures.events,
    }


def route() -> float:
    """Milliseconds of a plan, as a client makes it once it knows the swarm."""
    population: Population = Swarm(load(THOUSAND), 1)._population
    peers: list[Announcement] = [*population.directory.look().values()]
    atlas, chance, seconds = Atlas(peers), np.random.default_rng(1), []
    trips = {peer.peer_id: float(chance.uniform(0.01, 0.3)) for peer in peers}
    for _ in range(_ROUTES):
        started = time.perf_counter()
        plan(peers[0].num_layers, atlas, trips, tokens=17, salt=1)
        seconds.append(time.perf_counter() - started)
    return 1e3 * median(seconds)
