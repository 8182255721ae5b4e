"""A simulated swarm: its network, its peers and its clients, run for as long as there is something to do."""

from __future__ import annotations

from collections.abc import Callable

import simpy

from simulator.client import Client
from simulator.figures import Figures, Tally
from simulator.hosts import Link, Network, Protocol, chance
from simulator.policies import choice
from simulator.population import Population
from simulator.request import Record
from simulator.scenario import Link as LinkTable
from simulator.scenario import Scenario


class Swarm:
    """Runs one scenario once."""

    def __init__(self, scenario: Scenario, seed: int, told: Callable[[Record], None] = lambda _: None) -> None:
        """`told` is given each request when it ends, or is cut off by the end of the run."""
        self._env = env = simpy.Environment()
        self._tally = Tally()
        self._told = told
        self._running: dict[int, Record] = {}
        self._scenario = scenario
        transport, links, usual = scenario.transport, _links(scenario), _link(scenario.link)
        protocol = Protocol(transport.message_us * 1e-6, transport.kilobyte_us * 1e-9, transport.window_bytes)
        network = Network(env, lambda one, other: links.get((one, other), usual), protocol, chance(seed, "links"))
        self._population = Population(scenario, network, seed)
        routing, alive = scenario.policies.routing, self._population.alive
        choose = None if routing == "ours" else choice(routing, chance(seed, "routes"), alive.get)
        self._clients = [
            Client(
                scenario,
                kind,
                i,
                f"client-{number}-{i}",
                network,
                self._population,
                choose,
                seed,
                self._begin,
                self._tell,
            )
            for number, kind in enumerate(scenario.clients)
            for i in range(kind.count)
        ]

    def run(self) -> None:
        """Until all requests are finished, or the time is over."""
        env = self._env
        all_done = env.all_of([env.process(client.live()) for client in self._clients])
        env.run(until=all_done | env.timeout(self._scenario.seconds))
        for record in [*self._running.values()]:
            self._tell(record)

    def figures(self) -> Figures:
        """What it came to."""
        now = self._env.now
        used = {
            peer_id: peer.host.thread.busy_seconds / max(now - peer.joined, 1e-9)
            for peer_id, peer in self._population.alive.items()
        }
        return self._tally.figures(now, used, next(self._env._eid))

    def _begin(self, record: Record) -> None:
        self._running[id(record)] = record

    def _tell(self, record: Record) -> None:
        del self._running[id(record)]
        self._tally.add(record)
        self._told(record)


def _link(table: LinkTable) -> Link:
    return Link(table.delay_ms * 1e-3, table.jitter_ms * 1e-3, table.loss)


def _links(scenario: Scenario) -> dict[tuple[str, str], Link]:
    found = {}
    for names, table in scenario.links.items():
        one, other = names.split()
        found[one, other] = found[other, one] = _link(table)
    return found
