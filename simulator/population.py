"""The peers of a simulated swarm: who joins, announces, leaves, dies or falls silent; and what others know of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from client.routing import Atlas
from client.target import REFRESH_SECONDS
from peer.config import PeerConfig
from peer.placement import place
from simulator.directory import Directory
from simulator.hosts import Host, Machine, Network, SharedMachine, Steps, chance
from simulator.peer import DraftSpeed, Peer, StageSpeed
from simulator.policies import BATCHING
from simulator.scenario import Churn, Draft, Peers, Scenario
from swarm.errors import UsageError
from swarm.records import Announcement
from swarm.span import Span

_MAX_LINKS = 32  # that a peer measures and announces
_MAX_ROUND = PeerConfig.model_fields["max_batch_tokens"].default


@dataclass(frozen=True, slots=True)
class View:
    """What everybody knows of the swarm, since it was looked at last, ..."""

    at: float
    found: Mapping[str, Announcement]
    atlas: Atlas
    round_trips: dict[str, Mapping[str, float]]
    """... and, by place, seconds to each peer and back; of those that lived when somebody looked."""


def draft_speed(draft: Draft, times: float) -> DraftSpeed:
    """So many times as fast as the scenario's."""
    return DraftSpeed(draft.start_ms * 1e-3 / times, draft.node_ms * 1e-3 / times)


class Population:
    """All peers, over the whole of a run."""

    def __init__(self, scenario: Scenario, network: Network, seed: int) -> None:
        self.directory = Directory(network.env, scenario.announce_seconds)
        self.alive: dict[str, Peer] = {}
        """By id."""
        self._scenario = scenario
        self._network = network
        self._env = network.env
        self._seed = seed
        switch = scenario.cores.switch_ms * 1e-3
        self._machines = {
            name: SharedMachine(self._env, cores, switch) for name, cores in scenario.machines.items()
        }
        self._joined = 0
        self._view = View(-math.inf, {}, Atlas(()), {})
        shares = _shares(scenario)
        for kind in scenario.peers:
            for _ in range(kind.count):
                self._join(kind, next(shares) if isinstance(kind.layers, str) else None)

    def host(self, name: str, machine: str | None, place: str, uplink_mbit: float | None) -> Host:
        """A new one, on a machine that others share, or on one of its own."""
        computer = self._machines[machine] if machine else Machine(self._env)
        return Host(name, computer, place, uplink_mbit * 1e6 / 8 if uplink_mbit else None)

    def look(self) -> View:
        """What is known of the swarm: as old as a client's knowledge may be."""
        if self._env.now - self._view.at >= REFRESH_SECONDS:
            found = self.directory.look()
            atlas = self._view.atlas if found is self._view.found else Atlas(found.values())
            self._view = View(self._env.now, found, atlas, {})
        return self._view

    def round_trips(self, host: Host) -> Mapping[str, float]:
        """By peer, seconds from a host to it and back; of those that lived when it was looked for them."""
        view = self.look()
        if host.place not in view.round_trips:
            places = {peer_id: self.alive[peer_id].host.place for peer_id in view.found if peer_id in self.alive}
            trips = {place: 2 * self._network.links(host.place, place).delay for place in set(places.values())}
            view.round_trips[host.place] = {peer_id: trips[place] for peer_id, place in places.items()}
        return view.round_trips[host.place]

    def _join(self, kind: Peers, share: Span | None) -> None:
        """One more peer; `share` are its layers, if they are known."""
        scenario, layers = self._scenario, self._scenario.model.layers
        self._joined += 1
        name, found = f"peer-{self._joined}", self.directory.look()
        if share is not None:
            span = share
        elif isinstance(kind.layers, int):
            span = place(layers, [other.span for other in found.values()], kind.layers)
        else:
            span = Span(*map(int, kind.layers))
        peer = Peer(
            self._network,
            self.host(name, kind.machine, kind.place, kind.uplink_mbit),
            span,
            layers,
            _stage_speed(scenario, len(span), kind.speed),
            scenario.model.row_bytes,
            kind.max_batch_tokens,
            BATCHING[scenario.policies.batching],
            draft_speed(scenario.draft, kind.draft_speed) if kind.drafts else None,
        )
        self.alive[name] = peer
        self.directory.publish(self._announcement(peer))
        self._env.process(self._announce(peer))
        if scenario.churn.per_second:
            self._env.process(self._live(kind, peer, scenario.churn))

    def _announcement(self, peer: Peer) -> Announcement:
        step, token = peer.speed.announced()
        others = islice((other for other in self.alive.values() if other is not peer), _MAX_LINKS)
        return Announcement(
            peer_id=peer.peer_id,
            maddrs=(),
            model="simulated",
            fingerprint="0" * 64,
            config_hash="0" * 64,
            num_layers=self._scenario.model.layers,
            start=peer.span.start,
            end=peer.span.end,
            dtype="float32",
            quantize=None,
            step_seconds=step,
            token_seconds=token,
            load=peer.load(),
            free_tokens=1 << 20,
            max_round=_MAX_ROUND,
            draft_seconds=peer.draft_speed.seconds(1) if peer.draft_speed else None,
            links={other.peer_id: 2 * self._network.delay(peer.host, other.host) for other in others},
            version="0",
            started=0.0,
            expires=0.0,
        )

    def _announce(self, peer: Peer) -> Steps:
        """Renew a peer's announcement for as long as it serves."""
        while True:
            yield self._env.timeout(self.directory.period)
            if peer.peer_id not in self.alive or peer.peer_id not in self.directory:
                return
            self.directory.publish(self._announcement(peer))

    def _live(self, kind: Peers, peer: Peer, churn: Churn) -> Steps:
        """A peer's life; after it another one comes in its place."""
        random = chance(self._seed, peer.peer_id)
        yield self._env.timeout(random.expovariate(churn.per_second))
        rates = (churn.crash_per_hour, churn.hang_per_hour, churn.leave_per_hour)
        (how,) = random.choices((self._crash, self._hang, self._leave), rates)
        yield from how(peer)
        yield self._env.timeout(random.expovariate(1 / churn.return_seconds) if churn.return_seconds else 0.0)
        self._join(kind, peer.span if isinstance(kind.layers, str) else None)

    def _crash(self, peer: Peer) -> Steps:
        del self.alive[peer.peer_id]
        peer.crash()
        yield self._env.timeout(0.0)

    def _hang(self, peer: Peer) -> Steps:
        del self.alive[peer.peer_id]
        peer.hang()
        yield self._env.timeout(0.0)

    def _leave(self, peer: Peer) -> Steps:
        """Serve those who are there until they have moved on, or for as long as a peer waits for that."""
        self.directory.withdraw(peer.peer_id)
        empty, longest = peer.leave(), PeerConfig.model_fields["drain_seconds"].default
        yield empty | self._env.timeout(longest)
        yield from self._crash(peer)


def _shares(scenario: Scenario) -> Iterator[Span]:
    """The layers of each peer of one chain, in order; each has one at least. Raises UsageError if there are too few."""
    kinds = [kind for kind in scenario.peers if isinstance(kind.layers, str) for _ in range(kind.count)]
    weights = [kind.speed if kind.layers == "by-speed" else 1.0 for kind in kinds]
    spare = scenario.model.layers - len(kinds)
    if kinds and spare < 0:
        raise UsageError(f"{scenario.model.layers} layers cannot be split over {len(kinds)} peers")
    start, before = 0, 0.0
    for i, weight in enumerate(weights, start=1):
        before += weight
        end = i + round(spare * before / sum(weights))
        yield Span(start, end)
        start = end


def _stage_speed(scenario: Scenario, layers: int, times: float) -> StageSpeed:
    """Of so many layers, so many times as fast as the scenario's."""
    stage, scale = scenario.stage, layers / times
    return StageSpeed(
        (stage.hop_ms / times + stage.start_ms * scale) * 1e-3,
        stage.token_ms * scale * 1e-3,
        stage.several_ms * scale * 1e-3,
        stage.round_ms * scale * 1e-3,
        stage.context_us * scale * 1e-6,
    )
