"""A swarm of toy peers on a faulty network, and a client of it: the real service, session and chain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, Future
from random import Random
from typing import Any

from client.chain import Chain
from client.patience import TripTimer
from client.routes import Routes
from client.routing import Hop
from client.target import Target
from client.terms import Terms
from peer.limits import DEFAULTS, Limits
from peer.service import PeerService
from peer.session import Neighbour
from peer.table import SessionTable
from swarm.errors import ChainLost
from swarm.records import Announcement
from swarm.span import Span
from swarm.speculation.flight import Flight
from swarm.speculation.sampling import Sampling
from swarm.speculation.tree import DraftTree
from swarm.wire import Contact, Introduction, Rule
from tests.faulty import FaultyNetwork
from tests.toy import VOCAB, ToyEngine, ToyStage, info, reference

FINGERPRINT = "f" * 64
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
GREEDY = Sampling()


class SlowThread(Executor):
    """Runs what it is given in the event loop, some time later, one after the other."""

    def __init__(self, network: FaultyNetwork) -> None:
        self._network = network
        self._free = 0.0

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:  # type: ignore[override]
        loop = asyncio.get_running_loop()
        self._free = max(self._free, loop.time()) + self._network.delay() / 5
        loop.call_at(self._free, work, *arguments)
        return Future()


class Announced:
    """The directory: who is announced, dead or alive."""

    def __init__(self, network: FaultyNetwork) -> None:
        self._network = network
        self.peers: dict[str, Announcement] = {}

    async def peers_of(self, _: str) -> list[Announcement]:
        return list(self.peers.values())

    async def all_peers(self) -> list[Announcement]:
        return list(self.peers.values())

    async def is_reachable(self) -> bool:
        client = self._network.nodes["client"]
        return not (client.is_hung or client.is_cut_off)

    def trouble(self, _: str | None = None) -> str:
        return ""


def introduction(name: str) -> Introduction:
    """A toy peer has no key: nobody forges a name here."""
    return Introduction(Contact(name), max_round=1, issued=0.0, digest=bytes(32), signature=bytes(64))


def introduced(introduction: Introduction, _: Contact | None = None) -> Neighbour:
    """Toy peers take whatever is passed on token by token, if somebody wants that."""
    return Neighbour(introduction.contact, max_round=1)


class ToySwarm:
    """Peers by name, each with a span of a model of so many layers."""

    def __init__(
        self,
        network: FaultyNetwork,
        num_layers: int,
        *,
        max_sent_bytes: int = 1 << 20,
        max_cache_bytes: int = 1 << 20,
        max_sessions: int = 100,
        limits: Limits = DEFAULTS,
        prefill_tokens: int | None = None,
    ) -> None:
        self.network = network
        self.num_layers = num_layers
        self.directory = Announced(network)
        self.engines: dict[str, ToyEngine] = {}
        self.services: dict[str, PeerService] = {}
        self.tables: dict[str, SessionTable] = {}
        self._max_sent_bytes = max_sent_bytes
        self._max_cache_bytes = max_cache_bytes
        self._max_sessions = max_sessions
        self.limits = limits
        self.prefill_tokens = prefill_tokens
        """Of the peers that start from now on."""

    async def start(self, name: str, span: Span, max_round: int = 16) -> None:
        """A peer comes up, or comes back; it takes so many tokens at a time."""
        node = self.network.join(name)
        stage = ToyStage(span, self.num_layers)
        engine = self.engines[name] = ToyEngine(self.num_layers)
        table = self.tables[name] = SessionTable(
            stage,
            FINGERPRINT,
            max_cache_bytes=self._max_cache_bytes,
            max_sessions=self._max_sessions,
            max_round=max_round,
            max_sent_bytes=self._max_sent_bytes,
            limits=self.limits,
            clock=asyncio.get_running_loop().time,
        )
        service = PeerService(
            node, stage, table, engine, SlowThread(self.network), 64, introduced, prefill_tokens=self.prefill_tokens
        )
        self.services[name] = service
        await service.start()
        node.start(service.run(1000.0))
        now = asyncio.get_running_loop().time()
        self.directory.peers[name] = Announcement(
            peer_id=name,
            maddrs=(),
            model="toy",
            fingerprint=FINGERPRINT,
            config_hash="c" * 64,
            num_layers=self.num_layers,
            start=span.start,
            end=span.end,
            dtype="float32",
            quantize=None,
            draft_seconds=None,
            step_seconds=0.001,
            token_seconds=0.0001,
            load=0.0,
            free_tokens=1000,
            max_round=max_round,
            links={},
            version="0",
            started=now,
            expires=now + 60,
        )

    async def renew(self, period: float) -> None:
        """Renew the records of those that live, until cancelled."""
        while True:
            await asyncio.sleep(period)
            end = asyncio.get_running_loop().time() + 60
            for name in self.directory.peers.keys() & self.network.nodes.keys():
                self.directory.peers[name] = self.directory.peers[name].model_copy(update={"expires": end})

    async def drain(self, name: str, seconds: float = 30.0) -> None:
        """A peer leaves well."""
        service = self.services[name]
        await service.drain(seconds)
        if self.services[name] is service:
            self.kill(name)

    def kill(self, name: str) -> None:
        """A peer is gone; its record stays for a while."""
        if name in self.network.nodes:
            self.network.kill(name)


def some_tree(random: Random, expected: Sequence[int], size: int) -> DraftTree:
    """Drafts of a text that goes on as `expected`: a chain, or a tree with a right branch, of any place and length."""
    if random.random() < 0.5:
        return DraftTree.chain([token if random.random() < 0.8 else 0 for token in expected[:size]])
    tokens, parents, right = list[int](), list[int](), [-1]
    for node in range(size):
        if random.random() < 0.6:
            tokens.append(expected[len(right) - 1])
            parents.append(right[-1])
            right.append(node)
        else:
            tokens.append(random.randrange(VOCAB))
            parents.append(random.randrange(-1, node))
    return DraftTree(tuple(tokens), tuple(parents))


def some_more(random: Random, flight: Flight, expected: Sequence[int]) -> DraftTree:
    """More of a tree whose text goes on as `expected`: at its right branch, or anywhere."""
    tip, depth = -1, 0
    while (node := flight.child(tip, expected[depth])) is not None:
        tip, depth = node, depth + 1
    tokens, parents = list[int](), list[int]()
    for node in range(len(flight), len(flight) + random.randint(1, 4)):
        if random.random() < 0.6:
            tokens.append(expected[depth])
            parents.append(tip)
            tip, depth = node, depth + 1
        else:
            tokens.append(random.randrange(VOCAB))
            parents.append(random.randrange(-1, node))
    return DraftTree(tuple(tokens), tuple(parents))


class ToyClient:
    """Generates over a toy swarm, with trees of drafts that are sometimes right."""

    def __init__(
        self,
        swarm: ToySwarm,
        *,
        window: int,
        floor: float = 0.5,
        timeout: float = 120.0,
        prompt: Sequence[int] = PROMPT,
        allow: Collection[str] = (),
        deny: Collection[str] = (),
        growths: Sequence[int] = (0,),
        sampling: Sampling = GREEDY,
        rule: Rule = "match",
    ) -> None:
        """`growths`: how often a tree may grow while a verdict is waited for; one of them, each time."""
        self.swarm = swarm
        self.prompt = list(prompt)
        self.node = swarm.network.join("client")
        self.target = Target(
            info(swarm.num_layers), FINGERPRINT, self.node, swarm.directory, allow=allow, deny=deny
        )
        timer = TripTimer(floor, 5.0)
        routes = Routes(self.target, round_tokens=window + 1)
        self.chain = Chain(self.target, Terms(sampling, rule), routes, timer=timer, timeout=timeout)
        self.hops: tuple[Hop, ...] = ()
        """Of the chain, at the last verdict."""
        self._window = window
        self._growths = growths

    async def generate(self, count: int, on_verdict: Callable[[int], None] = lambda _: None) -> list[int]:
        """The tokens after the prompt; `on_verdict` is told how many there are."""
        random, prompt = self.swarm.network.random, self.prompt
        expected = reference(prompt, count + 80, self.swarm.num_layers)
        fresh = asyncio.create_task(self.target.keep_fresh())
        tokens = list(prompt)
        try:
            await self.target.refresh()
            while len(tokens) < len(prompt) + count:
                done = len(tokens) - len(prompt)
                tree = some_tree(random, expected[done:], random.randint(0, self._window))
                growing = asyncio.create_task(self._send_more([*prompt, *expected]))
                try:
                    if not self.chain.judges(tokens):
                        await self.chain.prefill(tokens)
                    verdict = await self.chain.verify(tokens, tree)
                except ChainLost:
                    if done:
                        raise
                    continue  # before the first token a person is told at once, and asks again
                finally:
                    growing.cancel()
                    await asyncio.wait([growing])
                tokens += verdict.tokens
                self.hops = self.chain.hops
                on_verdict(len(tokens) - len(prompt))
        finally:
            fresh.cancel()
            await asyncio.wait([fresh])
            await self.chain.close()
        return tokens[len(prompt) :][:count]

    async def _send_more(self, expected: Sequence[int]) -> None:
        """Let the tree on its way grow, now and then."""
        random = self.swarm.network.random
        for _ in range(random.choice(self._growths)):
            await asyncio.sleep(random.uniform(0, 0.2))
            flight = self.chain.flight
            if flight is None or not 0 < len(flight) < 60:
                return
            await self.chain.send_more(some_more(random, flight, expected[flight.length :]))
