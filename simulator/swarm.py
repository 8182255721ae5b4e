"""A simulated swarm: its peers, its clients, and all that happens to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import simpy

from client.generation import TREE_WIDTH, USUAL_IN_FLIGHT, new_window, round_tokens
from client.patience import TripTimer
from client.roster import Roster
from peer.placement import place
from simulator.chain import Chain, Failed
from simulator.directory import Directory
from simulator.drafter import ReplayDrafter
from simulator.figures import Figures, Tally
from simulator.hosts import Host, Link, Machine, Network, Protocol
from simulator.peer import Peer, StageSpeed
from simulator.request import DraftSpeed, Loop, Record, Steps
from simulator.scenario import Clients, Peers, Scenario
from simulator.texts import Texts
from swarm.drafting.drafter import NoDrafter
from swarm.records import Announcement
from swarm.span import Span
from swarm.speculation.calibration import Calibration
from swarm.speculation.cost import Cost
from swarm.speculation.overlap import Overlap

_FLOOR, _CEILING, _TIMEOUT = 1.0, 30.0, 60.0  # seconds, of ClientConfig
_MAX_ROUND = 2048
_CORES = 2  # of a machine that nobody shares
_FRESH = 5.0  # seconds for which a client's view counts as fresh


class Swarm:
    """Runs one scenario once."""

    def __init__(self, scenario: Scenario, seed: int, told: Callable[[Record], None] = lambda _: None) -> None:
        """`told` is given each request when it ends, or is cut off by the end of the run."""
        self.env = simpy.Environment()
        self._tally = Tally()
        self._told = told
        self._running: list[Record] = []
        self.peers: dict[str, Peer] = {}
        self._scenario = scenario
        self._seed = seed
        self._machines = {name: Machine(self.env, cores) for name, cores in scenario.machines.items()}
        links, usual = _links(scenario), _link(scenario.link)
        protocol = Protocol(scenario.transport.message_us * 1e-6, scenario.transport.window_bytes)
        self.network = Network(
            self.env, lambda one, other: links.get((one, other), usual), protocol, self._random("links")
        )
        self.directory = Directory(self.env, scenario.announce_seconds)
        self._ids = 0
        self._open = 0  # clients that will have requests, and requests
        self._is_over = self.env.event()
        for peers in scenario.peers:
            for _ in range(peers.count):
                self._join(peers)

    def run(self) -> None:
        """Until all requests are finished, or the time is over."""
        for number, kind in enumerate(self._scenario.clients):
            for i in range(kind.count):
                self._open += 1
                self.env.process(self._client(kind, f"client-{number}-{i}"))
        self.env.run(until=self.env.any_of([self._is_over, self.env.timeout(self._scenario.seconds)]))
        for record in self._running:
            self._tell(record)

    def _tell(self, record: Record) -> None:
        self._tally.add(record)
        self._told(record)

    def figures(self) -> Figures:
        """What it came to."""
        now = self.env.now
        used = {
            peer_id: peer.host.thread.busy_seconds / max(now - peer.joined, 1e-9)
            for peer_id, peer in self.peers.items()
        }
        return self._tally.figures(now, used, next(self.env._eid))

    def _random(self, name: str) -> Random:
        """Chance of its own for each thing: one more client changes nothing for the others."""
        return Random(f"{self._seed}/{name}")  # noqa: S311 - no secrets

    def _host(self, name: str, machine: str | None, place: str, uplink_mbit: float | None) -> Host:
        shared = self._machines[machine] if machine else Machine(self.env, _CORES)
        return Host(name, shared, place, uplink_mbit * 1e6 / 8 if uplink_mbit else None)

    def _join(self, kind: Peers) -> None:
        """One more peer."""
        scenario, layers = self._scenario, self._scenario.model.layers
        self._ids += 1
        name = f"peer-{self._ids}"
        if isinstance(kind.layers, int):
            span = place(layers, [found.span for found in self.directory.look().values()], kind.layers)
        else:
            span = Span(*kind.layers)
        stage, scale = scenario.stage, len(span) / kind.speed * 1e-3
        speed = StageSpeed(
            stage.start_ms * scale, stage.token_ms * scale, stage.round_ms * scale, stage.context_us * scale * 1e-3
        )
        host = self._host(name, kind.machine, kind.place, kind.uplink_mbit)
        peer = Peer(self.network, host, span, layers, speed, scenario.model.row_bytes, kind.max_batch_tokens)
        step, token = speed.announced()
        links = {
            other.peer_id: 2 * self.network.delay(host, other.host) for other in list(self.peers.values())[:32]
        }
        self.peers[name] = peer
        self.directory.publish(
            Announcement(
                peer_id=name,
                maddrs=(),
                model="simulated",
                fingerprint="0" * 64,
                config_hash="0" * 64,
                num_layers=layers,
                start=span.start,
                end=span.end,
                dtype="float32",
                quantize=None,
                step_seconds=step,
                token_seconds=token,
                free_tokens=1 << 20,
                max_round=_MAX_ROUND,
                draft_seconds=None,
                links=links,
                version="0",
                started=0.0,
                expires=0.0,
            )
        )
        self.env.process(self._announce(peer))
        self.env.process(self._live(kind, peer))

    def _live(self, kind: Peers, peer: Peer) -> Steps:
        """A peer's life, if it ends; then another one comes in its place."""
        churn, random = self._scenario.churn, self._random(peer.peer_id)
        ends = churn.crash_per_hour + churn.hang_per_hour
        if not ends:
            return
        yield self.env.timeout(random.expovariate(ends / 3600))
        del self.peers[peer.peer_id]
        if random.random() < churn.crash_per_hour / ends:
            peer.crash()
        else:
            peer.hang()
        yield self.env.timeout(random.expovariate(1 / churn.return_seconds) if churn.return_seconds else 0.0)
        self._join(kind)

    def _announce(self, peer: Peer) -> Steps:
        """Renew a peer's announcement for as long as it lives."""
        while peer.host.is_up and peer.peer_id in self.peers:
            yield self.env.timeout(self.directory.period)
            found = self.directory.look().get(peer.peer_id)
            if found is not None and peer.host.is_up:
                self.directory.publish(found)

    def _client(self, kind: Clients, name: str) -> Steps:
        """One client's requests."""
        random, env = self._random(name), self.env
        host = self._host(name, kind.machine, kind.place, kind.uplink_mbit)
        texts, cost, calibration = Texts(kind.text), Cost(), Calibration()
        for pause in _pauses(kind, random):
            yield env.timeout(pause)
            record = Record(env.now)
            self._running.append(record)
            self._open += 1
            request = env.process(self._request(kind, host, texts, cost, calibration, random, record))
            if kind.arrivals.kind == "closed":
                yield request
        self._end()

    def _end(self) -> None:
        """A client, or a request of one, is done."""
        self._open -= 1
        if not self._open:
            self._is_over.succeed()

    def _request(
        self,
        kind: Clients,
        host: Host,
        texts: Texts,
        cost: Cost,
        calibration: Calibration,
        random: Random,
        record: Record,
    ) -> Steps:
        """One generation."""
        roster = Roster(self._scenario.model.layers, lambda: self.env.now)
        tokens = round_tokens(kind.window)
        self._refresh(roster, host)
        in_flight = USUAL_IN_FLIGHT if kind.in_flight == "auto" else kind.in_flight
        overlap = Overlap(cost, in_flight)
        scale = 1e-3 / kind.draft_speed
        speed = DraftSpeed(self._scenario.draft.start_ms * scale, self._scenario.draft.node_ms * scale)
        rows = texts.new(kind.new_tokens, random)
        width = TREE_WIDTH if kind.tree else 1
        drafter = (
            NoDrafter() if kind.draft == "none" else ReplayDrafter(kind.prompt_tokens, rows, width, calibration)
        )
        chain = Chain(
            self.network,
            host,
            roster,
            self._alive,
            lambda: self._refresh(roster, host),
            TripTimer(_FLOOR, _CEILING),
            round_tokens=tokens,
            timeout=_TIMEOUT,
        )
        loop = Loop(self.env, host, chain, drafter, new_window(kind.window, cost, overlap), overlap, cost, speed)
        try:
            yield from loop.run(kind.prompt_tokens, kind.prompt_tokens + kind.new_tokens, record)
            record.finished = self.env.now
        except Failed:
            pass  # nobody could go on with it
        record.stall_seconds, record.reroutes = chain.stall_seconds, chain.reroutes
        chain.close()
        self._running.remove(record)
        self._tell(record)
        self._end()

    def _alive(self, peer_id: str) -> Peer | None:
        peer = self.peers.get(peer_id)
        return peer if peer is not None and peer.host.is_up else None

    def _refresh(self, roster: Roster, host: Host) -> None:
        roster.update(self.directory.look())
        for peer_id in roster.peers.keys() - roster.round_trips.keys():
            peer = self._alive(peer_id)
            if peer is not None:
                roster.round_trips[peer_id] = 2 * self.network.delay(host, peer.host)


def _pauses(kind: Clients, random: Random) -> Iterator[float]:
    """Seconds before each request."""
    arrivals = kind.arrivals
    number = 0
    while arrivals.requests is None or number < arrivals.requests:
        if arrivals.kind == "poisson":
            yield random.expovariate(arrivals.per_hour / 3600)
        else:
            yield arrivals.think_seconds if number else 0.0
        number += 1


def _link(table: object) -> Link:
    return Link(table.delay_ms * 1e-3, table.jitter_ms * 1e-3, table.loss)  # type: ignore[attr-defined]


def _links(scenario: Scenario) -> dict[tuple[str, str], Link]:
    found = {}
    for names, table in scenario.links.items():
        one, other = names.split()
        found[one, other] = found[other, one] = _link(table)
    return found
