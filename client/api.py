"""What a script with an event loop uses: connect to a swarm, then generate."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from client.audit import Auditor, Seeds
from client.chain import Chain
from client.config import MAX_WINDOW, ClientConfig, EvidenceSize, GenerationConfig
from client.config import Window as WindowOption
from client.elsewhere import Elsewhere
from client.generation import Context, Draft, Result, Statistics, generate
from client.journal import Journal
from client.patience import TripTimer
from client.routing import Kind, trip_seconds
from client.seats import ACCEPTANCE, ACCEPTANCE_OF_A_MODEL, Seat, best
from client.target import Target, find_fingerprint
from client.text import TextStream
from swarm import config
from swarm.directory import Directory
from swarm.drafting.drafter import Drafter, NoDrafter
from swarm.drafting.model import DraftModel
from swarm.drafting.ngram import NgramDrafter
from swarm.errors import ChainLost, PeerError, UsageError
from swarm.identity import Identity
from swarm.libp2p import Libp2pNetwork
from swarm.lifetime import end
from swarm.membership import Membership
from swarm.metrics import served
from swarm.model.source import ModelSource
from swarm.span import Span
from swarm.speculation.awc import AwcWindow
from swarm.speculation.cost import Cost
from swarm.speculation.evidence import CHOICE_BYTES
from swarm.speculation.overlap import Overlap
from swarm.speculation.sampling import Sampling
from swarm.speculation.semantic import Leniency
from swarm.speculation.windows import BestWindow, FixedWindow, Window
from swarm.transport import Network
from swarm.wire import MAX_EVIDENCE, MAX_TEXT, Contact, Generate, Rule

log = logging.getLogger("specswarm")

_TEXT_OPTIONS = {
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "seed",
    "acceptance",
    "semantic",
}  # on which the text depends
_USUAL_IN_FLIGHT = 16
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
        self._options = options
        self._journal = journal
        self._resumed = self._context.commit(journal.tokens if journal else [])
        self._sampling = _sampling(options)
        self._cost = model.cost
        wanted = model.config.window if options.window is None else options.window
        wanted_in_flight = model.config.in_flight if options.in_flight is None else options.in_flight
        self._rule = _rule(options)
        self._leniency = options.semantic if self._rule == "semantic" else None
        if self._rule != "match" and model.config.audit:
            raise UsageError(f"what others would judge under {self._rule} is another text: audit under match")
        in_flight = _USUAL_IN_FLIGHT if wanted_in_flight == "auto" else wanted_in_flight
        overlap = Overlap(self._cost, 1 if self._rule == "rejection" else in_flight)
        window = new_window(wanted, self._cost, overlap)
        self._wanted, self._wanted_in_flight = wanted, wanted_in_flight
        self._round_tokens = round_tokens(wanted)
        self._tree = tree = model.config.tree if options.tree is None else options.tree
        if self._rule == "rejection":
            drafter = model.new_sparse_drafter(self._sampling, options.evidence_k, self._cost)
        else:
            drafter = model.new_drafter(self._sampling, TREE_WIDTH if tree else 1, self._leniency)
        self._draft = Draft(drafter, model.thread, window, overlap, self._cost)
        self._text = TextStream(model.tokenizer, prompt)
        self._statistics = Statistics()
        self._pieces: list[str] = []
        self._model = model
        self._witness = Seeds().of if model.config.audit else None
        self._chain = self._new_chain(model.config.timeout)
        audit_chain = partial(self._new_chain, min(model.config.timeout, _AUDIT_TIMEOUT))
        self._auditor = Auditor(self._chain, audit_chain, model.target.note, len(self._context.tokens))
        self._elsewhere: Elsewhere | None = None
        self._hops: list[tuple[str, Span]] = []
        self._drafted_at: str | None = None
        self._seconds = self._first_token_seconds = 0.0

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        """The new text as it comes. Raises ChainLost or PeerError when nobody can go on."""
        started = time.perf_counter()
        if self._resumed:
            yield self._keep(self._text.push(self._resumed))
        try:
            async with contextlib.aclosing(self._rounds()) as rounds:
                async for tokens in rounds:
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
        if self._elsewhere is not None:
            sent, received = sent + self._elsewhere.traffic[0], received + self._elsewhere.traffic[1]
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
            reroutes=self._chain.reroutes + (self._elsewhere.reroutes if self._elsewhere else 0),
            stall_seconds=self._chain.stall_seconds,
            audits=self._auditor.audits,
            audits_skipped=self._auditor.skipped,
            suspects=self._auditor.suspects,
            chain=self._hops,
            drafted_at=self._drafted_at,
            bytes_sent=sent,
            bytes_received=received,
            evidence_bytes=self._chain.evidence_bytes,
            draft_seconds=statistics.draft_seconds,
            trip_seconds=statistics.trip_seconds,
            compute_seconds=statistics.compute_seconds,
            verdicts=statistics.verdicts,
            cost=self._cost.figures,
        )

    async def _rounds(self) -> AsyncGenerator[list[int], None]:
        """The tokens of verdict after verdict: from a peer that drafts, if that is faster, and from here."""
        contact = await self._model.drafting_peer(self._wanted, len(self._context.tokens))
        if contact is not None and self._context.room:
            try:
                async for tokens in self._rounds_at(contact):
                    yield tokens
            except PeerError as error:
                log.info("drafting here from now on: %s", error)
                self._model.target.note_drafting(error)
        async for tokens in generate(self._context, self._draft, self._chain, self._cost, self._statistics):
            self._drafted_at = None
            self._hops = [(hop.contact.peer_id, hop.span) for hop in self._chain.hops]
            yield tokens

    async def _rounds_at(self, contact: Contact) -> AsyncGenerator[list[int], None]:
        """The same, from this peer. Raises PeerError."""
        settings, context = self._model.config, self._context
        timer = TripTimer(settings.wait_floor, min(settings.wait_ceiling, settings.timeout))
        self._elsewhere = elsewhere = Elsewhere(self._model.target.transport, contact, timer, settings.timeout)
        request = Generate(
            fingerprint=self._model.target.fingerprint,
            text=tuple(context.tokens),
            count=min(context.room, MAX_TEXT),
            sampling=self._sampling,
            rule=self._rule,
            leniency=self._leniency,
            window=self._wanted,
            tree=self._tree,
            in_flight=self._wanted_in_flight,
            evidence_k=self._options.evidence_k,
        )
        self._drafted_at = contact.peer_id
        async for tokens in elsewhere.generate(request, context, self._statistics):
            self._hops = elsewhere.chain
            yield tokens

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
            leniency=self._leniency,
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
    async def connect_over(
        cls, network: Network, settings: ClientConfig, thread: ThreadPoolExecutor | None = None
    ) -> AsyncIterator[AsyncSwarmModel]:
        """The same, on a network that is up already; with the torch thread of this program, if it has one."""
        directory = Directory(network, network.swarm)
        own = contextlib.nullcontext(thread) if thread else ThreadPoolExecutor(1, "torch")
        with own as torch_thread:
            loop = asyncio.get_running_loop()
            source, tokenizer, draft = await loop.run_in_executor(torch_thread, _load, settings)
            fingerprint = await find_fingerprint(source, directory, settings.fingerprint)
            target = Target(source.info, fingerprint, network, directory, allow=settings.allow, deny=settings.deny)
            await target.refresh()
            freshness = asyncio.create_task(target.keep_fresh())
            try:
                yield cls(settings, source, target, tokenizer, draft, torch_thread)
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

    async def draft_seconds(self) -> float:
        """What one step of the draft takes here; measured once."""
        if self._draft is None:
            return 0.0
        return await asyncio.get_running_loop().run_in_executor(self.thread, self._draft.step_seconds)

    async def drafting_peer(self, wanted: WindowOption, length: int) -> Contact | None:
        """Where to have a text of so many tokens gone on with, by rounds of so many drafts; None: here. Raises
        UsageError if it must be a peer, and none can be."""
        settings = self.config
        tokens, window = round_tokens(wanted), wanted if isinstance(wanted, int) else None
        if settings.draft_at == "client":
            return None
        obstacle = settings.obstacle_to_a_peer or ("the text is too long" if length > MAX_TEXT else None)
        seats = [] if obstacle else self.target.seats(tokens=tokens)
        if settings.draft_at == "peer":
            if not seats:
                raise UsageError(f"no peer can draft: {obstacle or 'none of this model offers it (join --draft)'}")
            return max(seats, key=lambda seat: seat.rate(window)).contact
        if not seats:
            return None
        try:
            hops = await self.target.plan(tokens=tokens)
        except ChainLost:  # from here; a peer may have a way
            return max(seats, key=lambda seat: seat.rate(window)).contact
        trip = trip_seconds(hops, self.target.peers, tokens=tokens)
        acceptance = ACCEPTANCE.get(settings.draft, ACCEPTANCE_OF_A_MODEL)
        return best(Seat(None, trip, await self.draft_seconds(), acceptance), seats, window).contact

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

    def new_drafter(self, sampling: Sampling, width: int, leniency: Leniency | None = None) -> Drafter:
        """A drafter for one generation; `width`: most ways in which its text branches after a token; `leniency`: under
        the rule `semantic`. Raises UsageError if that has no model to go by."""
        if self._draft is not None:
            return self._draft.drafter(self.target.info.vocab_size, sampling, width, leniency)
        if leniency is not None:
            raise UsageError(
                f"semantic goes by what a draft model holds of the text, and {self.config.draft} is none"
            )
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


def new_window(wanted: WindowOption, cost: Cost, overlap: Overlap) -> Window:
    """What decides how many drafts a round of one generation gets."""
    if wanted == "auto":
        return BestWindow(cost, MAX_WINDOW, overlap)
    return AwcWindow(cost) if wanted == "awc" else FixedWindow(wanted)


def round_tokens(window: WindowOption) -> int:
    """Tokens of a usual round, for which chains are compared."""
    return 1 + (window if isinstance(window, int) else _USUAL_WINDOW)


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


def _rule(options: GenerationConfig) -> Rule:
    """Greedy text has nothing to reject by chance."""
    if options.acceptance == "rejection" and not options.temperature:
        return "match"
    return options.acceptance


def _sampling(options: GenerationConfig) -> Sampling:
    return Sampling(
        options.temperature, options.top_k, options.top_p, options.repetition_penalty, options.seed or 0
    )
