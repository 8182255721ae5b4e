"""What a script with an event loop uses: connect to a swarm, then generate."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from client.config import ClientConfig, EvidenceSize, GenerationConfig
from client.config import Window as WindowOption
from client.generation import Generation, round_tokens
from client.journal import Journal
from client.prompt import Prompt, check_prompt, check_text, check_tokens, token_ids
from client.prompt_text import text_ids, warn_of_two_begins
from client.recorder import Recorder
from client.result import Result
from client.sampling import completed, sampling_of
from client.seats import ACCEPTANCE, ACCEPTANCE_OF_A_MODEL, HERE, Seat, best
from client.target import Target, find_fingerprint
from client.terms import Terms
from swarm import awake, config
from swarm.directory import Directory, insist
from swarm.drafting.drafter import Drafter, NoDrafter
from swarm.drafting.model import DraftModel
from swarm.drafting.ngram import NgramDrafter
from swarm.errors import ChainLost, UsageError
from swarm.identity import Identity
from swarm.libp2p import Libp2pNetwork
from swarm.lifetime import torch_thread
from swarm.membership import Membership
from swarm.metrics import served
from swarm.model import threads
from swarm.model.source import ModelSource
from swarm.speculation.cost import Cost
from swarm.speculation.evidence import CHOICE_BYTES
from swarm.speculation.sampling import Sampling
from swarm.speculation.semantic import Leniency
from swarm.tasks import end, kept_up, owned
from swarm.transport import Network
from swarm.wire import MAX_EVIDENCE, MAX_TEXT

log = logging.getLogger("specswarm")

_TEXT_OPTIONS = {
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "processors",
    "eos_token_id",
    "seed",
    "acceptance",
    "semantic",
}  # on which the text depends


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
        *,
        shares_thread: bool = False,
    ) -> None:
        self.config = settings
        self.target = target
        self.tokenizer = tokenizer
        self._defaults = source.generation_defaults()
        if self._defaults.unapplied:
            asked = ", ".join(self._defaults.unapplied)
            log.warning("%s asks for %s: not applied here", self._defaults.file, asked)
        self.thread = thread
        self.shares_thread = shares_thread
        """Whether others of this program compute on it, too."""
        self.cost = Cost()
        """What trips and drafts have cost in the generations so far."""
        self._draft = draft

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, model: str, *, initial_peers: Sequence[str] = (), **options: Any
    ) -> AsyncIterator[AsyncSwarmModel]:
        """Join the swarm as a client; `options` are those of ClientConfig.

        Loads the tokenizer and the draft, no weights of the target. A program that must not pause may call gc.freeze()
        afterwards: a full collection over all that the libraries hold takes 0.2 s. Raises UsageError for options, names
        and addresses that are wrong, SwarmUnreachable if no initial peer answers, or nobody who knows the peers,
        ChainLost if the weights are not here and nobody serves any for this configuration.
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
        own = contextlib.nullcontext(thread) if thread else torch_thread()
        with own as computing, awake.clock().kept():
            loop = asyncio.get_running_loop()
            source, tokenizer, draft = await loop.run_in_executor(computing, _load, settings, thread is not None)
            fingerprint = await find_fingerprint(source, directory, settings.fingerprint)
            target = Target(source.info, fingerprint, network, directory, allow=settings.allow, deny=settings.deny)
            await insist(partial(target.refresh, is_enough=target.has_chain))
            freshness = owned(kept_up(target.keep_fresh, "looking at the swarm"), "looking at the swarm")
            try:
                yield cls(settings, source, target, tokenizer, draft, computing, shares_thread=thread is not None)
            finally:
                await end(freshness)
                await target.close()

    def stream(self, prompt: Prompt | None = None, **options: Any) -> Generation:
        """The new text, piece by piece; `options` are those of GenerationConfig. Raises UsageError.

        With `resume` naming the file of an interrupted generation, that one goes on, and needs no prompt.
        """
        given = config.load(GenerationConfig, "generate", None, options)
        if given.resume is not None and (journal := Journal.read(given.resume)):
            continued = self._continued(journal, prompt, given)
            return Generation(self, journal.prompt, continued, self._sampling(continued, journal.prompt), journal)
        if prompt is None:
            raise UsageError("the prompt is empty: give text, or token ids")
        tokens = self.encode(prompt, special_tokens=given.special_tokens)
        warn_of_two_begins(self.tokenizer, tokens)
        settings = completed(given, self._defaults)
        sampling = self._sampling(settings, tokens)
        file = given.resume
        new = Journal.begin(file, self.target.fingerprint, tokens, settings) if file else None
        return Generation(self, tokens, settings, sampling, new)

    def go_on(self, text: Sequence[int], sampling: Sampling, **options: Any) -> Generation:
        """New text after one that somebody else has begun, and drawn as they wish; `options` are those of
        GenerationConfig on which the text does not depend. Raises UsageError."""
        given = config.load(GenerationConfig, "generate", None, options)
        vocab_size = self.target.info.vocab_size
        if sampling.top_token >= vocab_size:
            raise UsageError(f"token {sampling.top_token} is not in the vocabulary of {vocab_size}")
        return Generation(self, self.encode(text), given, sampling)

    async def generate(self, prompt: Prompt | None = None, **options: Any) -> Result:
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

    async def drafting_seat(self, wanted: WindowOption, length: int) -> Seat:
        """Where to have a text of so many tokens gone on with, by rounds of so many drafts. Raises UsageError if it
        must be a peer, and none can be."""
        settings = self.config
        tokens, window = round_tokens(wanted), wanted if isinstance(wanted, int) else None
        if settings.draft_at == "client":
            return HERE
        obstacle = settings.obstacle_to_a_peer or ("the text is too long" if length > MAX_TEXT else None)
        seats = [] if obstacle else await self.target.seats(tokens=tokens)
        if settings.draft_at == "peer":
            if not seats:
                raise UsageError(f"no peer can draft: {obstacle or 'none of this model offers it (join --draft)'}")
            return best(None, seats, window)
        if not seats:
            return HERE
        try:
            hops = await self.target.plan(tokens=tokens)
        except ChainLost:  # from here; a peer may have a way
            return best(None, seats, window)
        trip = self.target.roster.trip_seconds(hops, tokens=tokens)
        acceptance = ACCEPTANCE.get(settings.draft, ACCEPTANCE_OF_A_MODEL)
        return best(Seat(None, trip, await self.draft_seconds(), acceptance), seats, window)

    async def refresh(self) -> int:
        """Look at the swarm again now; how many peers of the target can be reached."""
        await self.target.refresh(silent_too=True)
        return len(self.target.roster.round_trips)

    def encode(self, prompt: Prompt, *, special_tokens: bool = True) -> list[int]:
        """The prompt's token ids; without `special_tokens`, its text is never read as control tokens.

        Raises UsageError if it is no prompt, or empty, or does not fit the model's vocabulary or context.
        """
        info = self.target.info
        if isinstance(prompt, str):
            tokens = text_ids(self.tokenizer, check_text(prompt), special_tokens=special_tokens)
        else:
            tokens = token_ids(prompt, info.max_positions)
        check_prompt(tokens, info)
        return tokens

    def _continued(self, journal: Journal, prompt: Prompt | None, given: GenerationConfig) -> GenerationConfig:
        """The options under which a generation goes on. Raises UsageError if the text would be another one."""
        if journal.fingerprint != self.target.fingerprint:
            raise UsageError(f"{journal.path} was begun with another model ({journal.fingerprint[:12]})")
        try:
            check_prompt(journal.prompt, self.target.info)
            check_tokens(journal.tokens, self.target.info, "the text")
        except UsageError as error:
            raise UsageError(f"{journal.path}: {error}") from None
        wanted = given.model_dump(mode="json", exclude_unset=True)
        for key in _TEXT_OPTIONS & wanted.keys():
            began = journal.options.get(key)
            same = {**began, **wanted[key]} if isinstance(began, dict) else wanted[key]
            if same != began:
                raise UsageError(f"{journal.path} was begun with {key} {began}: leave it out")
        others = {key: value for key, value in wanted.items() if key not in _TEXT_OPTIONS}
        options = config.load(GenerationConfig, "generate", None, {**journal.options, **others})
        if prompt is not None and self.encode(prompt, special_tokens=options.special_tokens) != journal.prompt:
            raise UsageError(f"{journal.path} was begun with another prompt: leave it out, or choose another file")
        # what the model's files said then is among them; what they say now does not count
        return completed(options, dataclasses.replace(self._defaults, processors={}))

    def _sampling(self, options: GenerationConfig, prompt: Sequence[int]) -> Sampling:
        return sampling_of(options, len(prompt), self.target.info.vocab_size)

    def new_recorder(self, file: Path, terms: Terms) -> Recorder:
        """What records one generation. Raises UsageError if what the draft thought of its text cannot be told of it."""
        if self._draft is None:
            raise UsageError(f"record: draft {self.config.draft} is no model: what it thinks is not worth a record")
        if terms.rule != "match":
            raise UsageError(f"record: under {terms.rule} the text depends on the drafts: record under match")
        rows = partial(self._draft.record, vocab_size=self.target.info.vocab_size, sampling=terms.sampling)
        temperature = terms.sampling.temperature
        names = {"target": self.config.model, "draft": self.config.draft}
        return Recorder(file, self.thread, rows, **names, temperature=temperature)

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


def _load(settings: ClientConfig, is_shared: bool) -> tuple[ModelSource, Any, DraftModel | None]:
    """On the torch thread: what the client needs of the target, and the draft. Where the thread is shared, it has its
    number of processor threads already."""
    source = ModelSource.resolve(settings.model, settings.revision)
    tokenizer = source.tokenizer()
    if settings.draft in ("ngram", "none"):
        return source, tokenizer, None
    if not is_shared:
        threads.limit(settings.threads)
    is_open = settings.threads is None and not is_shared
    draft = DraftModel.load(settings.draft, tokenizer, device=settings.draft_device, choose_threads=is_open)
    return source, tokenizer, draft
