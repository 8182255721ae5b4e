"""What happens on the torch thread: a batch of rounds through the stage, and the verdicts at the chain's end."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from peer.intake import States, Unfit
from peer.session import Growing, Session
from swarm.errors import BadMessage
from swarm.model.stage import Slice, Stage
from swarm.rows import are_finite, form_of, to_rows
from swarm.span import Span
from swarm.speculation.evidence import Evidence
from swarm.speculation.match import Walk, go_on, match
from swarm.speculation.rejection import reject
from swarm.speculation.sampling import lead
from swarm.speculation.semantic import Lenience
from swarm.speculation.tree import ROOT
from swarm.wire import Round, parted

_FLATTEN_AFTER = 32  # rounds through a part of the stage: making its flat form takes as long as a few of them
_MAX_PARTS = 64
_PAUSE_SECONDS = 60.0  # between two lines of the log about rounds that failed

log = logging.getLogger("specswarm")


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One admitted round that waits for the stage."""

    session: Session
    round: Round
    states: States | None
    """What the peer before sent; None where token ids go in."""
    compute: tuple[float, ...]
    """Seconds each earlier stage took."""
    context: tuple[int, ...] = ()
    """Where the round is judged: the text up to and including its newest committed token."""
    tree: Growing | None = None
    """With what the rounds before brought of it; None for a chain that the round holds whole."""
    proofs: tuple[Evidence, ...] = ()
    """Under the rule `rejection`, of each draft."""
    views: Mapping[int, Evidence] = field(default_factory=dict)
    """Under the rule `semantic`, of branching nodes."""
    last_number: int = -1
    """The round before, of those that were admitted."""
    has_rest: bool = False
    """Whether the rest of its round waits: it was parted."""

    @property
    def num_bytes(self) -> int:
        """That its states take, once they are unpacked."""
        return 0 if self.states is None else self.states.num_bytes

    def parted(self, tokens: int) -> tuple[Job, Job]:
        """The first `tokens` tokens of its text, fewer than it has, as a job of their own, and the rest."""
        first, rest = parted(self.round, tokens)
        states = (None, None) if self.states is None else self.states.parted(tokens)
        return (
            Job(self.session, first, states[0], self.compute, last_number=self.last_number, has_rest=True),
            replace(self, round=rest, states=states[1]),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job: hidden states for the next hop, or the tokens of a verdict (empty: none was due)."""

    states: bytes | None
    tokens: tuple[int, ...]
    seconds: float
    margin: float | None = None
    """Of a verdict that stops at a draft of a chain, where a witness is wanted: how clear it is."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that came to nothing."""

    reason: str
    culprit: str | None = None
    """The peer that sent what cannot be computed with; None: it is this peer's own fault."""


FAILED = Failure("it failed inside; its log has the cause")
"""By a bug, or for want of memory."""
OVERFLOWN = Failure("its results are not finite in its dtype")
"""Nobody's fault but the weights' or the dtype's."""


class Break:
    """What else is computed in the middle of a pass: for no longer than the pass itself, whatever comes."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._started = time.perf_counter()
        self.seconds = 0.0
        """That it took so far."""

    @property
    def own_seconds(self) -> float:
        """Of the pass itself, since this was made."""
        return time.perf_counter() - self._started - self.seconds

    def __call__(self) -> None:
        """Do it, if it is time."""
        if self.seconds <= self.own_seconds:
            started = time.perf_counter()
            self._work()
            self.seconds += time.perf_counter() - started


class Engine:
    """Runs jobs on a stage, or on the parts of it that sessions use."""

    def __init__(self, stage: Stage) -> None:
        self._whole = stage
        self._parts = {stage.span: stage}
        self._uses = Counter[Span]()
        self._failures = 0
        self._said: float | None = None  # when the log last told of one

    @property
    def can_break(self) -> bool:
        """Whether other jobs may run in the middle of a pass: a GPU is given all layers at once, and is done later."""
        return self._whole.device.type == "cpu"

    def run(self, jobs: Sequence[Job], between: Break | None = None) -> list[Outcome | Failure]:
        """What came of each job, in order. If a shared pass fails, each job is run alone: only the guilty one fails.

        `between`: may run jobs of other sessions, if this engine `can_break`.
        """
        spoiled = {i: failure for i, job in enumerate(jobs) if (failure := spoiled_by(job, self._whole.dtype))}
        outcomes = iter(self._run_sound([job for i, job in enumerate(jobs) if i not in spoiled], between))
        return [spoiled[i] if i in spoiled else next(outcomes) for i in range(len(jobs))]

    def _run_sound(self, jobs: Sequence[Job], between: Break | None) -> list[Outcome | Failure]:
        try:
            return self._run(jobs, between)
        except Exception as error:
            if len(jobs) > 1:
                return [result for job in jobs for result in self._run_sound([job], between)]
            return [self._failed(error)]

    def _run(self, jobs: Sequence[Job], between: Break | None) -> list[Outcome | Failure]:
        """Jobs of the same layers share a forward pass."""
        outcomes: dict[int, Outcome | Failure] = {}
        for span in dict.fromkeys(job.session.span for job in jobs):
            chosen = [i for i, job in enumerate(jobs) if job.session.span == span]
            outcomes |= zip(chosen, self._run_part(span, [jobs[i] for i in chosen], between), strict=True)
        return [outcomes[i] for i in range(len(jobs))]

    def _run_part(self, span: Span, jobs: Sequence[Job], between: Break | None) -> list[Outcome | Failure]:
        started = _now(between)
        stage = self._part(span)
        outputs = stage.forward([_slice(stage, job) for job in jobs], between)
        if stage.is_last:
            verdicts = [self._judged(job, logits) for job, logits in zip(jobs, outputs, strict=True)]
            seconds = _now(between) - started
            return [one if isinstance(one, Failure) else Outcome(None, one[0], seconds, one[1]) for one in verdicts]
        states = [_passed_on(job, hidden) for job, hidden in zip(jobs, outputs, strict=True)]
        seconds = _now(between) - started
        return [one if isinstance(one, Failure) else Outcome(one, (), seconds) for one in states]

    def _judged(self, job: Job, logits: Tensor) -> tuple[tuple[int, ...], float | None] | Failure:
        """The verdict; a job that cannot be judged fails alone."""
        try:
            return _judge(job, logits)
        except Exception as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> Failure:
        """A bug of ours, or no memory: nobody else is blamed, and the peer lives. The log says so once a minute."""
        self._failures += 1
        if self._said is None or time.monotonic() - self._said >= _PAUSE_SECONDS:
            log.error("a round failed (%d until now)", self._failures, exc_info=error)
            self._said = time.monotonic()
        return FAILED

    def _part(self, span: Span) -> Stage:
        """The stage for a session's layers; one that is used again and again is worth flattening."""
        if span not in self._parts:
            if len(self._parts) > _MAX_PARTS:
                self._parts = {self._whole.span: self._whole}
                self._uses.clear()
            self._parts[span] = self._whole.part(span)
        self._uses[span] += 1
        if self._uses[span] == _FLATTEN_AFTER and span != self._whole.span:
            self._parts[span].flatten()
        return self._parts[span]


def _now(between: Break | None) -> float:
    """On a clock that stands still while something else is computed."""
    return time.perf_counter() - (between.seconds if between else 0.0)


def _passed_on(job: Job, hidden: Tensor) -> bytes | Failure:
    """Its rows; what is not finite would make the next peer accuse this one, and rightly."""
    wire, dtype = job.session.wire, hidden.dtype
    data = to_rows(hidden, wire)
    return data if are_finite(hidden, data, form_of(wire, dtype)) else OVERFLOWN


def spoiled_by(job: Job, dtype: torch.dtype) -> Failure | None:
    """What is wrong with what a job was given, and by whom; None if nothing is."""
    if job.states is None:
        return None
    try:
        job.states.check(dtype)
    except BadMessage as error:
        return Failure(str(error), job.states.sender)
    except Unfit as error:
        return Failure(str(error))
    return None


def _slice(stage: Stage, job: Job) -> Slice:
    session, round = job.session, job.round
    inputs = torch.tensor(round.tokens) if job.states is None else job.states.read(stage.dtype)
    if session.witness is not None and job.states is not None and not round.grown:
        session.witness.note(round.position, inputs[: round.num_kept])
    return Slice(
        cache=session.cache,
        position=job.tree.position if job.tree else round.position,
        inputs=inputs,
        parents=job.tree.all_parents if job.tree else None,
        num_logits=_num_judged(round) if stage.is_last else 0,
    )


def _num_judged(round: Round) -> int:
    """How many of a round's last tokens are followed by one that is judged."""
    if not round.judged:
        return 0
    return round.num_drafts if round.grown else round.num_drafts + 1


def _judge(job: Job, logits: Tensor) -> tuple[tuple[int, ...], float | None]:
    """The verdict's tokens and margin; logits: [tokens that are judged, vocab]."""
    session, round = job.session, job.round
    if not round.judged:
        return (), None
    processors = session.sampling.processors
    if logits.isnan().any() and not (processors and processors.remove_invalid_values):
        raise ValueError("the logits are no numbers")
    if round.grown:
        return _judge_more(job, logits), None
    drafts, sampling = round.tokens[round.num_text :], session.sampling
    if session.rule == "rejection":
        if len(job.proofs) != len(drafts):  # a round that is old already
            return (), None
        return tuple(reject(logits, job.context, drafts, job.proofs, sampling)), None
    given = session.walks.get(round.number)
    if session.leniency is not None and given is not None and given.text[: len(job.context)] == job.context:
        return given.text[len(job.context) :], None  # once more: what is on its way hangs on what was said first
    return _judge_tree(job, logits, drafts)


def _judge_tree(job: Job, logits: Tensor, drafts: Sequence[int]) -> tuple[tuple[int, ...], float | None]:
    """The same of a round that begins a chain or tree, where drafts stand as they match."""
    session, round, sampling = job.session, job.round, job.session.sampling
    tokens, nodes = match(logits, job.context, drafts, sampling, round.parents, _lenience(job))
    session.walks = {round.number: Walk((*job.context, *tokens), nodes[-1] if nodes else ROOT)}
    stop = len(nodes)
    if session.witness is None or round.parents or stop == len(drafts):
        return tuple(tokens), None
    return tuple(tokens), lead(logits[stop], (*job.context, *drafts[:stop]), drafts[stop], sampling)


def _judge_more(job: Job, logits: Tensor) -> tuple[int, ...]:
    """What follows the tokens of the verdict before, if these drafts go on from there; none: nothing."""
    session, round = job.session, job.round
    before = session.walks.get(round.number - 1)
    if before is None:
        return ()
    parents, sampling = round.parents, session.sampling
    walk, _ = go_on(before, logits, round.tokens, sampling, parents, round.grown, _lenience(job))
    session.walks = {round.number - 1: before, round.number: walk}
    return walk.text[len(before.text) :]


def _lenience(job: Job) -> Lenience | None:
    """With which the target goes down the tree."""
    leniency = job.session.leniency
    return Lenience(leniency, job.views) if leniency is not None else None
