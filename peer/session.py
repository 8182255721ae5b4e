"""One session at one peer: a plain object that says which rounds may run.

Its law: a round goes on from what the cache holds (it may overwrite, it may not leave a gap), or, if it says that it
`continues`, from text that came under its own number; it comes from the one who feeds this hop, carries the states that
belong before its first layer, and is never older than the last. A refused round leaves the session as it was. One that
brings more of a tree fits the drafts before it, or is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from peer.proofs import Proven
from peer.sent import Sent
from peer.views import Told
from peer.witness import Witness
from swarm.errors import Why
from swarm.model.cache import KVCache
from swarm.model.source import ModelInfo
from swarm.span import Span
from swarm.speculation.match import Walk
from swarm.speculation.sampling import Sampling
from swarm.speculation.semantic import Leniency
from swarm.speculation.tree import depths
from swarm.wire import (
    MAX_CHOICES,
    MAX_ROUND_TOKENS,
    MAX_TAIL,
    Ask,
    Contact,
    Progress,
    Proofs,
    Relink,
    Round,
    Rule,
    Views,
    Wire,
)

LEAST_CHUNK = 16
"""Tokens at a time that a next peer is given which takes as many: a message of one costs nearly as much."""


class Refusal(Exception):
    """The sender asked for what it may not have; `why` is for its program, the text for people. Nothing has changed."""

    def __init__(self, why: Why, reason: str) -> None:
        super().__init__(reason)
        self.why: Why = why


class TooLong(Refusal):
    """A round has more tokens than this peer takes at a time, as it tells everybody."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A next peer, as it says itself."""

    contact: Contact
    max_round: int
    """Most tokens that it takes at a time."""

    def chunk(self, wanted: int) -> int:
        """Tokens that it is given at a time, where a client wants so many."""
        return max(wanted, min(LEAST_CHUNK, self.max_round))


class Growing(msgspec.Struct, frozen=True):
    """The tree of drafts of the newest round, as it has grown with those that brought more of it."""

    number: int
    """Of the round that began it, ..."""
    position: int
    """... the position of that one, ..."""
    num_text: int
    """... and how many of its tokens were text."""
    parents: tuple[int, ...]
    """Of each draft."""

    @classmethod
    def begin(cls, round: Round) -> Growing:
        """With the drafts of a round."""
        parents = round.parents or tuple(range(-1, round.num_drafts - 1))
        return cls(round.number, round.position, round.num_text, parents)

    def with_more(self, round: Round) -> Growing:
        """As it is with those of a round that brings more."""
        return msgspec.structs.replace(self, parents=self.parents + round.parents)

    @property
    def slots(self) -> int:
        """How many the cache needs."""
        return self.position + self.num_text + len(self.parents)

    @property
    def reach(self) -> int:
        """One past the position of the deepest draft."""
        return self.position + self.num_text + 1 + max(depths(self.parents), default=-1)

    @property
    def all_parents(self) -> tuple[int, ...]:
        """Of each token: the text is a chain, and the drafts grow at its end."""
        newest = self.num_text - 1
        return (*range(-1, newest), *(newest + 1 + parent for parent in self.parents))


@dataclass(slots=True, eq=False)
class Session:
    """What this peer knows of one client's chain."""

    id: bytes
    client: str
    """Peer id of the client that opened it."""
    span: Span
    source: str
    """Peer id of whoever feeds this hop: the client, or the peer before."""
    downstream: Contact | None
    """The next peer; None at the last hop."""
    sampling: Sampling
    cache: KVCache
    holds: int = 0
    """Positions that the next peer has already: their results are kept, and not passed on."""
    chunk: int = MAX_ROUND_TOKENS
    """Most tokens that the next peer takes at a time."""
    sent: Sent = field(default_factory=Sent)
    """What was passed on, or would have been."""
    wire: Wire = "exact"
    """In which form states come and go."""
    rule: Rule = "match"
    proven: Proven = field(default_factory=Proven)
    """Under the rule `rejection`, at the last hop."""
    leniency: Leniency | None = None
    """Under the rule `semantic`, ..."""
    told: Told = field(default_factory=Told)
    """... and, at the last hop, what was told of drafts that are still on their way."""
    witness: Witness | None = None
    """Of the input, if the client audits."""
    tokens: list[int] = field(default_factory=list)
    """The token id at each position that the cache keeps, once the admitted rounds have run."""
    last_number: int = -1
    tree: Growing | None = None
    """The drafts of the newest round that was admitted."""
    walks: dict[int, Walk] = field(default_factory=dict)
    """At the last hop, by round, how far the target went down the tree. The torch thread's own."""
    waiting: int = 0
    """Admitted rounds that have not run yet, ..."""
    in_flight: int = 0
    """... their tokens, ..."""
    to_be_judged: int = 0
    """... and those of them whose verdict looks at the whole text."""
    computed: int = 0
    """Positions up to the end of the round that ran last."""
    parts: list[tuple[Round, bytes, float]] = field(default_factory=list)
    """Of a round that runs in parts: results that wait to be passed on together, and the seconds they took."""
    asked: list[Ask] = field(default_factory=list)
    """Questions to be answered when the cache holds what they ask for."""
    last_used: float = 0.0

    def check(self, round: Round, layer: int, sender: str, model: ModelInfo) -> Growing:
        """The tree of drafts that `round` of `sender`, with the states after layers 0..`layer`, makes or grows. Raises
        Refusal unless it may run now."""
        if sender != self.source:
            raise Refusal("unlawful", "this session is fed by another peer")
        if layer != self.span.start:
            raise Refusal("unlawful", f"states after layer {layer}; this hop begins with layer {self.span.start}")
        if self.rule == "rejection" and (round.parents or round.grown):
            raise Refusal("unlawful", "the rule rejection judges chains, no trees")
        tree = self.tree_with(round)
        if round.grown:
            self._check_reach(tree, round, model)
            return tree
        newest = self.tree.number if self.tree else self.last_number
        if round.number < newest:
            raise Refusal("unlawful", f"round {round.number} comes after round {newest}")
        reliable = self._reliable(round)
        if round.position > reliable:
            raise Refusal("unlawful", f"position {round.position} leaves a gap after {reliable} tokens")
        self._check_reach(tree, round, model)
        return tree

    def _reliable(self, round: Round) -> int:
        """How many positions the cache holds as they are when this round runs: all, where its sender takes the drafts
        that stand for granted; those of the text alone that came with its number, where it goes on from there."""
        if not round.continues:
            return len(self.tokens)
        return self.tree.position + self.tree.num_text if self.tree and self.tree.number == round.number else 0

    def prove(self, part: Proofs, model: ModelInfo) -> None:
        """Take note of what drafts were drawn from. Raises Refusal, changing nothing, unless it may be so."""
        if self.rule != "rejection" or self.span.end != model.num_layers:
            raise Refusal("unlawful", "proofs are for the last hop, and for the rule rejection")
        if any(max(ids) >= model.vocab_size for ids in part.ids):
            raise Refusal("unlawful", f"proofs name a token that is not in the vocabulary of {model.vocab_size}")
        proven = self.proven.with_part(part)
        if proven.num_choices > MAX_CHOICES:
            raise Refusal("unlawful", f"proofs of {proven.num_choices} choices; at most {MAX_CHOICES} are kept")
        self.proven = proven

    def check_views(self, views: Views, model: ModelInfo) -> None:
        """Raise Refusal unless these may be of drafts of this session."""
        if self.rule != "semantic" or self.span.end != model.num_layers:
            raise Refusal("unlawful", "views are for the last hop, and for the rule semantic")
        if any(max(ids) >= model.vocab_size for ids in views.ids):
            raise Refusal("unlawful", f"views name a token that is not in the vocabulary of {model.vocab_size}")

    def lacks_proofs(self, round: Round, model: ModelInfo) -> bool:
        """Whether a round has to wait here for more proofs. Raises Refusal if it is too long for that."""
        is_proven = self.rule == "rejection" and round.judged and self.span.end == model.num_layers
        if not is_proven or not round.num_drafts or not self.proven.lacks(round):
            return False
        if round.num_text > 1 + MAX_TAIL:
            raise Refusal("unlawful", f"{round.num_text} tokens of text with drafts that wait for their proofs")
        return True

    def _check_reach(self, tree: Growing, round: Round, model: ModelInfo) -> None:
        if tree.reach > model.max_positions:
            raise Refusal("unlawful", f"the model's context ends at {model.max_positions} tokens")
        if (top := max(round.tokens)) >= model.vocab_size:
            raise Refusal("unlawful", f"token {top} is not in the vocabulary of {model.vocab_size}")

    def tree_with(self, round: Round) -> Growing:
        """The tree of drafts that a round makes or grows."""
        return self.tree.with_more(round) if round.grown and self.tree else Growing.begin(round)

    def is_stale(self, round: Round) -> bool:
        """Whether it brings more of a tree that was given up, or of which something was lost: to be passed over."""
        if not round.grown:
            return False
        is_next = round.number == self.last_number + 1
        return not is_next or self.tree is None or round.grown != len(self.tree.parents)

    def is_given_up(self, round: Round) -> bool:
        """The same of one that was admitted."""
        return bool(round.grown) and self.tree is not None and round.number < self.tree.number

    def admit(self, round: Round, tree: Growing) -> None:
        """Take note of a checked round, and the tree that it makes or grows: it is going to run."""
        self.tree = tree
        if not round.grown:
            self.tokens[round.position :] = round.tokens[: round.num_kept]
        self.last_number = round.number
        self.waiting += 1
        self.in_flight += len(round.tokens)
        self.to_be_judged += _looks_back(round)

    def part(self) -> None:
        """Take note that a round that was admitted runs as two."""
        self.waiting += 1

    def ran(self, round: Round) -> None:
        """Take note that an admitted round has run."""
        self.waiting -= 1
        self.in_flight -= len(round.tokens)
        self.to_be_judged -= _looks_back(round)
        if not round.grown:
            self.computed = round.end

    def take_back(self, rounds: Sequence[Round], last_number: int) -> None:
        """Take note that these, which were admitted, brought nothing: the cache holds what is before them all.
        `last_number`: of the round before them."""
        self.tree = None
        self.last_number = last_number
        position = min((round.position for round in rounds if not round.grown), default=len(self.tokens))
        del self.tokens[position:]
        self.computed = min(self.computed, position)

    def progress(self, question: Ask, worked: int = 0, queued: int = 0) -> Progress | None:
        """The answer, if the time has come for it; `worked` and `queued` of this peer, as in Progress."""
        if self.computed < question.held:
            return None
        held, kept = len(self.tokens), self.sent.first
        taken, computed = self.last_number + 1, self.computed
        return Progress(self.id, question.nonce, taken, held, self.waiting, kept, computed, worked, queued)

    def relink(self, request: Relink, downstream: Neighbour | None, num_layers: int) -> None:
        """Take new neighbours; `downstream`: the next one. Raises Refusal if they do not fit the layers."""
        check_neighbours(self.span, request.upstream, downstream, num_layers)
        self.source = request.upstream or self.client
        self.downstream = downstream.contact if downstream else None
        self.holds = request.holds
        self.parts = []  # the log has them
        self.chunk = downstream.chunk(request.chunk) if downstream else request.chunk


def _looks_back(round: Round) -> bool:
    return round.judged and not round.grown


def check_neighbours(span: Span, upstream: str | None, downstream: Neighbour | None, num_layers: int) -> None:
    """Raise Refusal unless exactly the first hop is fed by the client, and the last one feeds nobody."""
    if (upstream is None) != (span.start == 0):
        raise Refusal("unlawful", "the hop with layer 0, and no other, is fed by the client")
    if downstream is not None and span.end == num_layers:
        raise Refusal("unlawful", "the hop with the last layer ends the chain")


def check_sampling(sampling: Sampling, rule: Rule, model: ModelInfo) -> None:
    """Raise Refusal if it names a token that the model does not have, or draws nothing where the rule needs that."""
    if rule == "rejection" and sampling.temperature == 0:
        raise Refusal("unlawful", "the rule rejection needs a temperature above 0")
    if sampling.top_token >= model.vocab_size:
        raise Refusal("unlawful", f"token {sampling.top_token} is not in the vocabulary of {model.vocab_size}")
