"""A simulated client: when it asks, where its drafts are made, and what it has learnt from text to text."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import simpy

from client.config import ClientConfig
from client.generation import TREE_WIDTH, USUAL_IN_FLIGHT, new_window, round_tokens
from client.patience import TripTimer
from client.roster import Roster
from client.seats import ACCEPTANCE_OF_A_MODEL, Seat, best
from simulator.arrivals import Wish, wishes
from simulator.chain import Chain, Failed
from simulator.drafter import ReplayDrafter
from simulator.hosts import Host, Network, Steps, chance
from simulator.peer import DraftSpeed, Peer
from simulator.policies import Choice, ThresholdWindow
from simulator.population import Population, draft_speed
from simulator.request import Loop, Record
from simulator.scenario import Clients, Scenario
from simulator.texts import Text, Texts
from swarm.drafting.drafter import Drafter, NoDrafter
from swarm.errors import ChainLost, PeerLost
from swarm.speculation.calibration import Calibration
from swarm.speculation.cost import Cost
from swarm.speculation.overlap import Overlap
from swarm.speculation.windows import Window

_FLOOR, _CEILING, _TIMEOUT = (
    ClientConfig.model_fields[name].default for name in ("wait_floor", "wait_ceiling", "timeout")
)


class Client:
    """All requests of one client."""

    def __init__(
        self,
        scenario: Scenario,
        kind: Clients,
        number: int,
        name: str,
        network: Network,
        population: Population,
        choose: Choice | None,
        seed: int,
        begun: Callable[[Record], None],
        ended: Callable[[Record], None],
    ) -> None:
        """`number`: among the clients of its kind; `choose`: who takes part in chains, if not as real clients choose;
        `begun` and `ended` are given each request."""
        self._kind = kind
        self._number = number
        self._network = network
        self._env = network.env
        self._population = population
        self._begun, self._ended = begun, ended
        self._host = population.host(name, kind.machine, kind.place, kind.uplink_mbit)
        self._random = chance(seed, name)
        self._texts = Texts(kind.text, self._random)
        self._speed = draft_speed(scenario.draft, kind.draft_speed)
        self._num_layers = scenario.model.layers
        self._roster = Roster(self._num_layers, lambda: self._env.now, self._random.getrandbits(64))
        self._cost, self._calibration = Cost(), Calibration()
        self._running = 0  # requests
        self._choose = choose

    def live(self) -> Steps:
        """Ask again and again; ends when the last text is finished."""
        env, running = self._env, list[simpy.Process]()
        for wish in wishes(self._kind, self._number, self._random):
            if wish.at is None:
                yield env.timeout(wish.pause)
                yield from self._request(wish)
            else:
                yield env.timeout(max(wish.at - env.now, 0.0))
                running = [process for process in running if process.is_alive]
                running.append(env.process(self._request(wish)))
        yield env.all_of(running)

    def _request(self, wish: Wish) -> Steps:
        """One text."""
        record = Record(self._env.now)
        self._begun(record)
        self._running += 1
        roster = self._roster
        self._look(roster, self._host)
        text = self._texts.new(wish.prompt_tokens, wish.new_tokens)
        try:
            peer = self._drafting_peer(roster)
            if peer is not None:
                yield from self._at_a_peer(peer, text, record)
            yield from self._generate(text, record, self._host, roster, self._speed, self._cost)
            record.finished = self._env.now
        except Failed:
            pass  # nobody could go on with it
        self._running -= 1
        if not self._running:
            roster.update({})  # what it knew of the swarm is large, and old by the time it asks again
        self._ended(record)

    def _drafting_peer(self, roster: Roster) -> Peer | None:
        """Where the drafts are made, by the rule of the real client; None: here. Raises Failed where none can."""
        kind, tokens = self._kind, self._round_tokens
        if kind.draft_at == "client":
            return None
        seats, here = roster.seats(tokens=tokens), None
        if not seats:
            if kind.draft_at == "peer":
                raise Failed("no peer drafts")
            return None
        if kind.draft_at == "auto":
            try:
                trip = roster.trip_seconds(roster.plan(tokens=tokens), tokens=tokens)
                acceptance = ACCEPTANCE_OF_A_MODEL if kind.draft == "model" else 0.0
                here = Seat(None, trip, self._speed.seconds(1), acceptance)
            except ChainLost:
                pass  # from here; a peer may have a way
        contact = best(here, seats, kind.window if isinstance(kind.window, int) else None).contact
        peer = self._population.alive.get(contact.peer_id) if contact else None
        if contact is not None and peer is None:  # it has died since it was looked for; then drafts are made here
            roster.note_drafting(PeerLost(contact.peer_id, "it is gone"))
        return peer

    def _at_a_peer(self, peer: Peer, text: Text, record: Record) -> Steps:
        """Have a peer generate, until it has finished or died."""
        env, way = self._env, self._network.delay(self._host, peer.host)
        process, roster = (
            env.active_process,
            Roster(self._num_layers, lambda: env.now, zlib.crc32(peer.peer_id.encode())),
        )
        assert process is not None  # noqa: S101 - it runs this
        self._look(roster, peer.host)
        peer.guests[process] = None
        try:
            yield env.timeout(3 * way)  # a stream is opened, and the text sent
            record.drafted_at = peer.peer_id
            speed = peer.draft_speed or self._speed
            yield from self._generate(text, record, peer.host, roster, speed, Cost(), way)
            yield env.timeout(way)
        except simpy.Interrupt:
            yield env.timeout(way if not peer.is_silent else 2 * _FLOOR)  # until that is noticed
            record.reroutes += 1
        finally:
            peer.guests.pop(process, None)

    def _generate(
        self,
        text: Text,
        record: Record,
        host: Host,
        roster: Roster,
        speed: DraftSpeed,
        cost: Cost,
        way_back: float = 0.0,
    ) -> Steps:
        """What is left of a text, drafted at a host. Raises Failed."""
        kind = self._kind
        overlap = Overlap(cost, USUAL_IN_FLIGHT if kind.in_flight == "auto" else kind.in_flight)
        chain = Chain(
            self._network,
            host,
            roster,
            self._population.alive.get,
            lambda: self._look(roster, host),
            TripTimer(_FLOOR, _CEILING),
            self._choose,
            round_tokens=self._round_tokens,
            timeout=_TIMEOUT,
        )
        window, drafter = self._window(cost, overlap), self._drafter(text, host)
        is_alone = host is self._host and kind.machine is None
        loop = Loop(self._env, host, chain, drafter, window, overlap, cost, speed, way_back, is_alone)
        try:
            yield from loop.run(text.prompt_tokens + record.tokens, text.prompt_tokens + len(text.rows), record)
        finally:
            record.stall_seconds += chain.stall_seconds
            record.reroutes += chain.reroutes
            chain.close()

    def _window(self, cost: Cost, overlap: Overlap) -> Window:
        kind = self._kind
        return ThresholdWindow() if kind.window == "threshold" else new_window(kind.window, cost, overlap)

    def _drafter(self, text: Text, host: Host) -> Drafter:
        """A peer drafts with a model of its own, whatever the client has."""
        if self._kind.draft == "none" and host is self._host:
            return NoDrafter()
        width = TREE_WIDTH if self._kind.tree else 1
        return ReplayDrafter(text.prompt_tokens, text.rows, width, self._calibration)

    @property
    def _round_tokens(self) -> int:
        window = self._kind.window
        return round_tokens("auto" if window == "threshold" else window)

    def _look(self, roster: Roster, host: Host) -> None:
        """Have a roster know what is known where a host is."""
        view = self._population.look()
        if roster.peers is not view.found:
            roster.update(view.found, view.atlas)
        trips = self._population.round_trips(host)
        lost = roster.cooldowns.active
        roster.round_trips = {peer: trip for peer, trip in trips.items() if peer not in lost} if lost else {**trips}
        if host.name in trips:
            roster.round_trips[host.name] = 0.0
