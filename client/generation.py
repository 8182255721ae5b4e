"""One text that is being generated: drafted here or at a peer, as pieces of text, with figures at its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from client.audit import Auditor, Seeds
from client.chain import Chain
from client.config import MAX_WINDOW, ClientConfig, GenerationConfig
from client.config import Window as WindowOption
from client.elsewhere import Elsewhere
from client.excess import Trips
from client.journal import Journal
from client.loop import Context, Draft, generate
from client.patience import TripTimer
from client.result import Result, Statistics
from client.routes import Routes
from client.routing import Kind
from client.seats import Seat
from client.terms import Terms
from client.text import TextStream
from swarm.errors import PeerError, PeerLost, UsageError
from swarm.span import Span
from swarm.speculation.awc import AwcWindow
from swarm.speculation.cost import Cost
from swarm.speculation.overlap import Overlap
from swarm.speculation.sampling import Sampling
from swarm.speculation.windows import BestWindow, FixedWindow, Window
from swarm.tasks import end, owned
from swarm.wire import MAX_TEXT, Contact, Generate, Rule

if TYPE_CHECKING:
    from client.api import AsyncSwarmModel

log = logging.getLogger("specswarm")

USUAL_IN_FLIGHT = 16
_USUAL_WINDOW = 16  # drafts for which chains are compared, where their number is chosen from round to round
TREE_WIDTH = 4
"""Most ways in which drafts branch after a token."""
_FIRST_LOOK = 2.0  # seconds between two looks for a place that drafts faster; doubled each time
_AUDIT_TIMEOUT = 10.0  # seconds without progress after which an audit is given up: the text waits for the last one


class Generation:
    """One text being generated: iterate over its pieces, then read `result`."""

    def __init__(
        self,
        model: AsyncSwarmModel,
        prompt: Sequence[int],
        options: GenerationConfig,
        sampling: Sampling,
        journal: Journal | None = None,
    ) -> None:
        """`journal` may have the text's beginning."""
        ends = frozenset(sampling.eos_token_id)
        self._context = Context(
            list(prompt), len(prompt), options.max_new_tokens, model.target.info.max_positions, ends
        )
        self._options = options
        self._journal = journal
        self._resumed = self._context.commit(journal.tokens if journal else [])
        self._cost = model.cost
        wanted = model.config.window if options.window is None else options.window
        wanted_in_flight = model.config.in_flight if options.in_flight is None else options.in_flight
        self._terms = terms = _terms(options, sampling, model.config)
        if terms.rule != "match" and model.config.audit:
            raise UsageError(f"what others would judge under {terms.rule} is another text: audit under match")
        self._recorder = model.new_recorder(options.record, terms) if options.record else None
        in_flight = USUAL_IN_FLIGHT if wanted_in_flight == "auto" else wanted_in_flight
        overlap = Overlap(self._cost, 1 if terms.rule == "rejection" else in_flight)
        window = new_window(wanted, self._cost, overlap)
        self._wanted, self._wanted_in_flight = wanted, wanted_in_flight
        self._round_tokens = round_tokens(wanted)
        self._tree = tree = model.config.tree if options.tree is None else options.tree
        if terms.rule == "rejection":
            drafter = model.new_sparse_drafter(terms.sampling, options.evidence_k, self._cost)
        else:
            drafter = model.new_drafter(terms.sampling, TREE_WIDTH if tree else 1, terms.leniency)
        self._draft = Draft(drafter, model.thread, window, overlap, self._cost, in_turns=model.shares_thread)
        self._text = TextStream(model.tokenizer, prompt)
        self._statistics = Statistics()
        self._pieces: list[str] = []
        self._model = model
        self._chain = self._new_chain(model.config.timeout)
        audit_chain = partial(self._new_chain, min(model.config.timeout, _AUDIT_TIMEOUT))
        self._auditor = Auditor(self._chain, audit_chain, model.target.roster.note, len(self._context.tokens))
        self._elsewhere: Elsewhere | None = None
        self._next_look, self._pause = 0.0, _FIRST_LOOK  # when it is tried whether another place is better
        self._noting: asyncio.Task[None] | None = None
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
            if self._recorder:
                await self._recorder.add(self._context.tokens, self._context.prompt_tokens)
        finally:
            if self._noting is not None:
                await end(self._noting)
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
            finish_reason=self._context.finish_reason,
            prompt_tokens=self._context.prompt_tokens,
            seed=self._terms.sampling.seed,
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
        while self._context.room and (seat := await self._seat()).contact is not None:
            try:
                async with contextlib.aclosing(self._rounds_at(seat, seat.contact)) as rounds:
                    async for tokens in rounds:
                        yield tokens
            except PeerError as error:
                log.info("drafting here from now on: %s", error)
                self._noting = owned(self._note_drafting(error), "asking whether it is us")
                break
        self._chain.has_begun = bool(self._statistics.rounds)
        async for tokens in generate(self._context, self._draft, self._chain, self._cost, self._statistics):
            self._drafted_at = None
            self._hops = [(hop.contact.peer_id, hop.span) for hop in self._chain.hops]
            yield tokens

    async def _seat(self) -> Seat:
        """Where drafts are best made from here on. Raises UsageError."""
        return await self._model.drafting_seat(self._wanted, len(self._context.tokens))

    async def _is_slow(self, peer_id: str, trips: Trips) -> bool:
        """Whether a peer that drafts takes so much longer than it announces that another place is better."""
        now = time.monotonic()
        if not trips.excess or self._model.config.draft_at == "peer" or now < self._next_look:
            return False
        self._next_look, self._pause = now + self._pause, 2 * self._pause
        self._model.target.roster.drafting_excess.note([peer_id], trips.excess)
        found = (await self._seat()).contact
        return found is None or found.peer_id != peer_id

    async def _note_drafting(self, error: PeerError) -> None:
        """Leave a peer alone that did not draft to the end, unless it is us who are cut off."""
        target = self._model.target
        if not isinstance(error, PeerLost) or await target.is_reachable(apart_from={error.peer_id}):
            target.roster.note_drafting(error)

    async def _rounds_at(self, seat: Seat, contact: Contact) -> AsyncGenerator[list[int], None]:
        """The same, from this peer, as long as it is not much slower than it announces. Raises PeerError."""
        settings, context, terms = self._model.config, self._context, self._terms
        timer = TripTimer(settings.wait_floor, min(settings.wait_ceiling, settings.timeout))
        target = self._model.target
        timeout = settings.timeout + await target.seconds_of_text(len(context.tokens))
        promise = seat.promise(self._wanted if isinstance(self._wanted, int) else None)
        self._elsewhere = elsewhere = Elsewhere(target.transport, contact, target.info, timer, timeout, promise)
        request = Generate(
            fingerprint=self._model.target.fingerprint,
            text=tuple(context.tokens),
            count=min(context.room, MAX_TEXT),
            sampling=terms.sampling,
            rule=terms.rule,
            leniency=terms.leniency,
            window=self._wanted,
            tree=self._tree,
            in_flight=self._wanted_in_flight,
            evidence_k=self._options.evidence_k,
        )
        self._drafted_at = contact.peer_id
        async with contextlib.aclosing(elsewhere.generate(request, context, self._statistics)) as rounds:
            async for tokens in rounds:
                self._hops = elsewhere.chain
                yield tokens
                if await self._is_slow(contact.peer_id, elsewhere.trips):
                    log.info(
                        "drafting elsewhere from now on: peer %s takes %.0f ms a round, and announces %.0f ms",
                        contact.peer_id,
                        1e3 * elsewhere.trips.seconds,
                        1e3 * promise.seconds,
                    )
                    return

    def _new_chain(
        self,
        timeout: float,
        avoid: Callable[[], Collection[str]] = frozenset,
        kinds: Collection[Kind] | None = None,
    ) -> Chain:
        """A chain for this text: see Chain."""
        settings, target = self._model.config, self._model.target
        return Chain(
            target,
            self._terms,
            Routes(target, round_tokens=self._round_tokens, avoid=avoid, kinds=kinds),
            timer=TripTimer(settings.wait_floor, min(settings.wait_ceiling, settings.timeout)),
            timeout=timeout,
        )

    def _keep(self, piece: str) -> str:
        self._pieces.append(piece)
        return piece


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


def _terms(options: GenerationConfig, sampling: Sampling, settings: ClientConfig) -> Terms:
    """Of a generation."""
    is_greedy = sampling.temperature == 0.0  # then nothing can be rejected by chance
    rule: Rule = "match" if options.acceptance == "rejection" and is_greedy else options.acceptance
    leniency = options.semantic if rule == "semantic" else None
    return Terms(sampling, rule, leniency, settings.wire, Seeds().of if settings.audit else None)
