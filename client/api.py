"""What a script with an event loop uses: connect to a swarm, then generate."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from client.audit import Auditor, Seeds
from client.chain import Chain
from client.config import MAX_WINDOW, ClientConfig, EvidenceSize, GenerationConfig, Window
from client.generation import Context, Draft, Result, Statistics, generate
from client.journal import Journal
from client.patience import TripTimer
from client.routing import Hop, Kind
from client.target import Target, find_fingerprint
from client.text import TextStream
from swarm import config
from swarm.directory import Directory
from swarm.drafting.drafter import Drafter, NoDrafter
from swarm.drafting.model import DraftModel
from swarm.drafting.ngram import NgramDrafter
from swarm.errors import UsageError
from swarm.identity import Identity
from swarm.libp2p import Libp2pNetwork
from swarm.lifetime import end
from swarm.membership import Membership
from swarm.metrics import served
from swarm.model.source import ModelSource
from swarm.speculation.cost import Cost
from swarm.speculation.evidence import CHOICE_BYTES
from swarm.speculation.overlap import Overlap
from swarm.speculation.sampling import Sampling
from swarm.speculation.windows import BestWindow, FixedWindow
from swarm.transport import Network
from swarm.wire import MAX_EVIDENCE, Rule

_TEXT_OPTIONS = {
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "seed",
    "acceptance",
}  # on which the text depends
_USUAL_IN_FLIGHT = 12
_USUAL_WINDOW = 16  # drafts for which chains are compared, where their number is chosen from round to round
TREE_WIDTH = 4
"""Most ways in which drafts branch after a token."""
_AUDIT_TIMEOUT = 10.0  # seconds without progress after which an audit is given up: the text waits for the last one


class Generation:
    """One text being generated: iterate over its pieces, then read `result`."""

    def __init__(
        self, model: AsyncSwarmModel, prompt: Sequence[int], options: GenerationConfig, journal: Journal | None
    ) -> None:
        """`options` have a seed; `journal` may have the text's beginning."""
        self._context = Context(
            list(prompt), len(prompt), options.max_new_tokens, model.target.info.max_positions, model.eos_token_ids
        )
        self._journal = journal
        self._resumed = self._context.commit(journal.tokens if journal else [])
        self._sampling = _sampling(options)
        self._cost = model.cost
        wanted = model.config.window if options.window is None else options.window
        wanted_in_flight = model.config.in_flight if options.in_flight is None else options.in_flight
        overlap = Overlap(self._cost, _USUAL_IN_FLIGHT if wanted_in_flight == "auto" else wanted_in_flight)
        window = BestWindow(self._cost, MAX_WINDOW, overlap) if wanted == "auto" else FixedWindow(wanted)
        self._round_tokens = round_tokens(wanted)
        tree = model.config.tree if options.tree is None else options.tree
        self._rule: Rule = options.acceptance if options.temperature else "match"
        if self._rule == "rejection":
            if model.config.audit:
                raise UsageError("what others would judge under rejection is another text: audit under match")
            drafter = model.new_sparse_drafter(self._sampling, options.evidence_k, self._cost)
        else:
            drafter = model.new_drafter(self._sampling, TREE_WIDTH if tree else 1)
        self._draft = Draft(drafter, model.thread, window, overlap, self._cost)
        self._text = TextStream(model.tokenizer, prompt)
        self._statistics = Statistics()
        self._pieces: list[str] = []
        self._model = model
        self._witness = Seeds().of if model.config.audit else None
        self._chain = self._new_chain(model.config.timeout)
        audit_chain = partial(self._new_chain, min(model.config.timeout, _AUDIT_TIMEOUT))
        self._auditor = Auditor(self._chain, audit_chain, model.target.note, len(self._context.tokens))
        self._hops: tuple[Hop, ...] = ()
        self._seconds = self._first_token_seconds = 0.0

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        """The new text as it comes. Raises ChainLost or PeerError when nobody can go on."""
        started = time.perf_counter()
        if self._resumed:
            yield self._keep(self._text.push(self._resumed))
        rounds = generate(self._context, self._draft, self._chain, self._cost, self._statistics)
        try:
            async with contextlib.aclosing(rounds):
                async for tokens in rounds:
                    self._hops = self._chain.hops
                    self._seconds = time.perf_counter() - started
                    self._first_token_seconds = self._first_token_seconds or self._seconds
                    if self._journal:
                        self._journal.write(tokens)
                    if _is_drawn(self._model.config.audit):
                        self._auditor.audit(self._context.tokens)
                    yield self._keep(self._text.push(tokens))
            yield self._keep(self._text.flush())
            await self._auditor.finish(self._context.tokens)
        finally:
            await self._auditor.close()
            await self._chain.close()

    @property
    def result(self) -> Result:
        """Text and figures of the finished generation."""
        new, statistics = self._context.new_tokens, self._statistics
        sent, received = self._chain.traffic
        return Result(
            text="".join(self._pieces),
            token_ids=new,
            prompt_tokens=self._context.prompt_tokens,
            seed=self._sampling.seed,
            rounds=statistics.rounds,
            drafted=statistics.drafted,
            accepted=statistics.accepted,
            seconds=self._seconds,
            first_token_seconds=self._first_token_seconds,
            tokens_per_second=(len(new) - len(self._resumed)) / self._seconds if self._seconds else 0.0,
            reroutes=self._chain.reroutes,
            stall_seconds=self._chain.stall_seconds,
            audits=self._auditor.audits,
            audits_skipped=self._auditor.skipped,
            suspects=self._auditor.suspects,
            chain=[(hop.contact.peer_id, hop.span) for hop in self._hops],
            bytes_sent=sent,
            bytes_received=received,
            draft_seconds=statistics.draft_seconds,
            trip_seconds=statistics.trip_seconds,
            compute_seconds=statistics.compute_seconds,
            cost=self._cost.figures,
        )

    def _new_chain(
        self,
        timeout: float,
        avoid: Callable[[], Collection[str]] = frozenset,
        kinds: Collection[Kind] | None = None,
    ) -> Chain:
        """A chain for this text: see Chain."""
        settings = self._model.config
        return Chain(
            self._model.target,
            self._sampling,
            round_tokens=self._round_tokens,
            timer=TripTimer(settings.wait_floor, min(settings.wait_ceiling, settings.timeout)),
            timeout=timeout,
            rule=self._rule,
            wire=settings.wire,
            witness=self._witness,
            avoid=avoid,
            kinds=kinds,
        )

    def _keep(self, piece: str) -> str:
        self._pieces.append(piece)
        return piece


class AsyncSwarmModel:
    """A target model as the swarm serves it, with a drafter in this process."""

    def __init__(
        self,
        settings: ClientConfig,
        source: ModelSource,
        target: Target,
        tokenizer: Any,
        draft: DraftModel | None,
        thread: ThreadPoolExecutor,
    ) -> None:
        self.config = settings
        self.target = target
        self.tokenizer = tokenizer
        self.eos_token_ids = source.eos_token_ids
        self.thread = thread
        self.cost = Cost()
        """What trips and drafts have cost in the generations so far."""
        self._draft = draft

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, model: str, *, initial_peers: Sequence[str] = (), **options: Any
    ) -> AsyncIterator[AsyncSwarmModel]:
        """Join the swarm as a client; `options` are those of ClientConfig.

        Loads the tokenizer and the draft, no weights of the target. Raises UsageError for options, names and addresses
        that are wrong, SwarmUnreachable if no initial peer answers, ChainLost if the weights are not here and nobody
        serves any for this configuration.
        """
        settings = config.load(
            ClientConfig, "client", None, {"model": model, "initial_peers": initial_peers, **options}
        )
        async with cls.connect_with(settings) as connected:
            yield connected

    @classmethod
    @contextlib.asynccontextmanager
    async def connect_with(cls, settings: ClientConfig) -> AsyncIterator[AsyncSwarmModel]:
        """The same, from a whole configuration."""
        holding = Identity.hold(settings.identity) if settings.identity else contextlib.nullcontext()
        swarm = Membership.read(settings.swarm_key)
        with holding as identity, served(settings):
            async with (
                Libp2pNetwork.join(identity, initial_peers=settings.initial_peers, swarm=swarm) as network,
                cls.connect_over(network, settings) as connected,
            ):
                yield connected

    @classmethod
    @contextlib.asynccontextmanager
    async def connect_over(cls, network: Network, settings: ClientConfig) -> AsyncIterator[AsyncSwarmModel]:
        """The same, on a network that is up already."""
        directory = Directory(network, network.swarm)
        with ThreadPoolExecutor(1, "torch") as thread:
            loop = asyncio.get_running_loop()
            source, tokenizer, draft = await loop.run_in_executor(thread, _load, settings)
            fingerprint = await find_fingerprint(source, directory, settings.fingerprint)
            target = Target(source.info, fingerprint, network, directory, allow=settings.allow, deny=settings.deny)
            await target.refresh()
            freshness = asyncio.create_task(target.keep_fresh())
            try:
                yield cls(settings, source, target, tokenizer, draft, thread)
            finally:
                await end(freshness)

    def stream(self, prompt: str | Sequence[int] | None = None, **options: Any) -> Generation:
        """The new text, piece by piece; `options` are those of GenerationConfig. Raises UsageError.

        With `resume` naming the file of an interrupted generation, that one goes on, and needs no prompt.
        """
        given = config.load(GenerationConfig, "generate", None, options)
        if given.resume is not None and (journal := Journal.read(given.resume)):
            return Generation(self, journal.prompt, self._continued(journal, prompt, given), journal)
        tokens = self.encode(prompt or "")
        settings = (
            given if given.seed is not None else given.model_copy(update={"seed": secrets.randbelow(1 << 63)})
        )
        file = given.resume
        new = Journal.begin(file, self.target.fingerprint, tokens, settings) if file else None
        return Generation(self, tokens, settings, new)

    async def generate(self, prompt: str | Sequence[int] | None = None, **options: Any) -> Result:
        """The whole new text, with its figures."""
        generation = self.stream(prompt, **options)
        async for _ in generation:
            pass
        return generation.result

    async def refresh(self) -> int:
        """Look at the swarm again now; how many peers of the target can be reached."""
        await self.target.refresh(silent_too=True)
        return self.target.num_reachable

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """The prompt's token ids. Raises UsageError if it is empty or does not fit the model's context."""
        tokens = self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt)
        info = self.target.info
        if not tokens:
            raise UsageError("the prompt is empty: give at least one token of text")
        if not all(0 <= token < info.vocab_size for token in tokens):
            raise UsageError(f"the prompt has token ids outside the vocabulary of {info.vocab_size}")
        if len(tokens) >= info.max_positions:
            raise UsageError(
                f"the prompt has {len(tokens)} tokens; the model's context ends at {info.max_positions}"
            )
        return list(tokens)

    def _continued(
        self, journal: Journal, prompt: str | Sequence[int] | None, given: GenerationConfig
    ) -> GenerationConfig:
        """The options under which a generation goes on. Raises UsageError if the text would be another one."""
        if journal.fingerprint != self.target.fingerprint:
            raise UsageError(f"{journal.path} was begun with another model ({journal.fingerprint[:12]})")
        if prompt is not None and self.encode(prompt) != journal.prompt:
            raise UsageError(f"{journal.path} was begun with another prompt: leave it out, or choose another file")
        wanted = given.model_dump(exclude_unset=True)
        for key in _TEXT_OPTIONS & wanted.keys():
            if wanted[key] != journal.options.get(key):
                raise UsageError(f"{journal.path} was begun with {key} {journal.options.get(key)}: leave it out")
        return config.load(GenerationConfig, "generate", None, {**journal.options, **wanted})

    def new_drafter(self, sampling: Sampling, width: int) -> Drafter:
        """A drafter for one generation; `width`: most ways in which its text branches after a token."""
        if self._draft is not None:
            return self._draft.drafter(self.target.info.vocab_size, sampling, width)
        return NgramDrafter() if self.config.draft == "ngram" else NoDrafter()

    def new_sparse_drafter(self, sampling: Sampling, k: EvidenceSize, cost: Cost) -> Drafter:
        """A drafter for one generation under the rule `rejection`."""
        if self._draft is None:
            return self.new_drafter(sampling, 1)

        def least() -> float:
            """The chance at which a choice saves as much time as its bytes take."""
            return CHOICE_BYTES * 8e-6 / self.config.uplink_mbit / cost.seconds_per_token if k == "auto" else 0.0

        return self._draft.sparse_drafter(
            self.target.info.vocab_size, sampling, MAX_EVIDENCE if k == "auto" else k, least
        )


def round_tokens(window: Window) -> int:
    """Tokens of a usual round, for which chains are compared."""
    return 1 + (_USUAL_WINDOW if window == "auto" else window)


def _is_drawn(share: float) -> bool:
    """With this probability, and so that no peer can know it before."""
    return secrets.SystemRandom().random() < share


def _load(settings: ClientConfig) -> tuple[ModelSource, Any, DraftModel | None]:
    """On the torch thread: what the client needs of the target, and the draft."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    source = ModelSource.resolve(settings.model, settings.revision)
    tokenizer = source.tokenizer()
    if settings.draft in ("ngram", "none"):
        return source, tokenizer, None
    return source, tokenizer, DraftModel.load(settings.draft, tokenizer, device=settings.draft_device)


def _sampling(options: GenerationConfig) -> Sampling:
    return Sampling(
        options.temperature, options.top_k, options.top_p, options.repetition_penalty, options.seed or 0
    )
