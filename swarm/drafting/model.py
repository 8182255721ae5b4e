"""A small model as a drafter: its tree of guesses lives in its cache, and grows several nodes at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from swarm.drafting.drafter import READ_TOKENS
from swarm.drafting.growth import AT_ONCE, MAX_NODES, Growth, Node
from swarm.drafting.ngram import Repeats, hint_among
from swarm.drafting.recording import record
from swarm.drafting.sparse import SparseDrafter
from swarm.drafting.texts import common_prefix
from swarm.errors import UsageError
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.speed import measure
from swarm.model.stage import Slice, Stage
from swarm.span import Span
from swarm.speculation.calibration import LONGEST, Calibration
from swarm.speculation.flight import Flight
from swarm.speculation.sampling import Sampling, contests
from swarm.speculation.semantic import Leniency, views
from swarm.speculation.trace import Row
from swarm.speculation.tree import DraftTree

_FIRST = 16  # choices whose scores are kept
_MAX_KINDS = 32  # of sampling of which it is remembered how well the draft does: those that were asked for last


class ModelDrafter:
    """Ranks what may follow by the draft's own scores, with the sampling and the noise of the target's own choice.

    Its cache holds the text before the newest token, then the nodes of the tree that are worked out, in that order.
    """

    def __init__(
        self,
        stage: Stage,
        vocab_size: int,
        sampling: Sampling,
        width: int,
        calibration: Calibration | None = None,
        has_views: bool = False,
    ) -> None:
        """`stage` holds all layers of the draft; tokens from `vocab_size` on do not exist for the target; a node has at
        most `width` children; `calibration` is what other texts have taught of this sampling; with `has_views`, for
        the rule `semantic`, a tree says what the model holds of what follows its nodes."""
        self._stage = stage
        self._vocab_size = vocab_size
        self._sampling = sampling
        self._has_views = has_views
        self._at_once = AT_ONCE if width > 1 else 1
        self._growth = Growth(width, calibration or Calibration())
        self._repeats = Repeats(LONGEST)
        self._cache = stage.new_cache()
        self._text: list[int] = []
        self._end = 0  # one past the last position that is guessed
        self._cached = 0  # positions of the text that the cache holds, before the root
        self._slots: list[Node] = []  # nodes in the cache; the root is the first

    def follow(self, text: Sequence[int], room: int) -> None:
        """Keep what is known of this text, and of what may follow."""
        room = min(room, self._stage.info.max_positions - len(text))
        known = common_prefix(self._text, text)
        self._growth.limit(room)
        is_nearer, self._end = len(text) + room < self._end, len(text) + room
        if known == len(self._text) > 0 and not is_nearer:
            if len(text) > known:
                self._advance(text[known:])
        else:
            self._cached = min(self._cached, known, len(text) - 1)
            self._slots = []
            self._growth.plant(text[-1])
        self._text = list(text)
        self._repeats.follow(text)

    def catch_up(self) -> bool:
        """Run a part of the text that the cache lacks; whether it still lacks a longer one."""
        lacking = self._text[self._cached : self._base]
        if len(lacking) <= READ_TOKENS or self._slots or self._is_lost:
            return False
        part = torch.tensor(lacking[:READ_TOKENS])
        self._stage.forward([Slice(self._cache, self._cached, part, num_logits=0)])
        self._cached += READ_TOKENS
        return len(lacking) > 2 * READ_TOKENS

    def grow(self) -> int:
        """Run the likeliest open nodes; before them, the text that the cache lacks."""
        if self._is_lost or len(self._slots) >= MAX_NODES:
            return 0
        nodes = self._growth.pick(self._at_once)
        if nodes:
            self._run(nodes)
        return len(nodes)

    @property
    def promise(self) -> float:
        """The chance of the likeliest open node."""
        return 0.0 if self._is_lost or len(self._slots) >= MAX_NODES else self._growth.promise

    def chances(self, size: int) -> list[float]:
        """Of the best nodes."""
        return self._growth.chances(size)

    def tree(self, size: int) -> DraftTree:
        """The best nodes."""
        return self._growth.tree(size)

    def more(self, flight: Flight, size: int) -> DraftTree:
        """The best nodes that are not on their way."""
        return self._growth.more(flight, size)

    @property
    def _base(self) -> int:
        """The position of the root."""
        return len(self._text) - 1

    @property
    def _is_lost(self) -> bool:
        """Whether the draft cannot go on with this text: its context ends, or there is a token it does not know."""
        if self._base >= self._stage.info.max_positions or self._growth.root.token >= self._stage.info.vocab_size:
            return True
        return any(token >= self._stage.info.vocab_size for token in self._text[self._cached :])

    def _advance(self, tokens: Sequence[int]) -> None:
        """Let the text go on: of the tree in the cache, what it went through becomes text, and what is behind stays."""
        base, before = self._base, self._growth.root
        path = [before, *self._growth.advance(tokens)]
        root = self._growth.root
        through = [node for node in path if node is not root and node.slot >= 0]
        kept = list(through)
        if root in path:
            behind = {root}
            for node in self._slots:
                if node is root or node.parent in behind:
                    behind.add(node)
                    kept.append(node)
        if self._slots:
            self._cache.compact(base, [node.slot for node in kept])
        self._cached += len(through)
        self._slots = kept[len(through) :]
        for slot, node in enumerate(self._slots):
            node.slot = slot

    def _run(self, nodes: Sequence[Node]) -> None:
        """Work nodes out in one forward pass."""
        lacking = self._text[self._cached : self._base]
        start = self._base - len(lacking)
        inputs = torch.tensor([*lacking, *(node.token for node in nodes)])
        for node in nodes:
            node.slot = len(self._slots)
            self._slots.append(node)
        parents = [node.parent.slot if node.parent else -1 for node in self._slots]
        is_chain = parents == list(range(-1, len(parents) - 1))
        piece = Slice(
            self._cache,
            start if lacking or not is_chain else start + len(self._slots) - len(nodes),
            inputs,
            None if is_chain else tuple(parents),
            num_logits=len(nodes),
        )
        logits = self._stage.forward([piece])[0][:, : self._vocab_size]
        self._cached = self._base
        contexts = [[*self._text, *node.path()] for node in nodes]
        told = views(logits, contexts, self._sampling) if self._has_views else [None] * len(nodes)
        found = contests(logits, contexts, self._sampling, _FIRST)
        for node, context, view, (choices, scores) in zip(nodes, contexts, told, found, strict=True):
            hint = hint_among(choices, scores, self._repeats.after(context[-LONGEST:]), self._vocab_size, _FIRST)
            self._growth.work_out(node, choices, scores, hint, view)


class DraftModel:
    """A draft model, loaded once; each generation gets a drafter of its own, with what those before have learnt."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._calibrations: dict[tuple[Sampling, Leniency | None], Calibration] = {}
        self._step_seconds: float | None = None

    @classmethod
    def load(
        cls, name: str, target_tokenizer: object, *, device: str = "cpu", choose_threads: bool = False
    ) -> DraftModel:
        """Load all layers of `name`, see `load_stage`. Raises UsageError unless it has the target's tokenizer."""
        source = ModelSource.resolve(name)
        vocabulary = source.tokenizer().get_vocab()
        if vocabulary != target_tokenizer.get_vocab():  # type: ignore[attr-defined]  # transformers is untyped
            raise UsageError(f"draft {name} has another tokenizer than the target: use one of the same family")
        span = Span(0, source.info.num_layers)
        return cls(load_stage(source, span, device=device, choose_threads=choose_threads))

    def step_seconds(self) -> float:
        """What a forward pass of one token takes; measured once, on the torch thread."""
        if self._step_seconds is None:
            self._step_seconds = measure(self._stage).step_seconds
        return self._step_seconds

    def drafter(
        self, vocab_size: int, sampling: Sampling, width: int, leniency: Leniency | None = None
    ) -> ModelDrafter:
        """A drafter for one generation: see ModelDrafter; with `leniency`, for the rule `semantic`."""
        kind = (sampling.kind, leniency)
        calibration = self._calibrations[kind] = self._calibrations.pop(kind, Calibration())
        if len(self._calibrations) > _MAX_KINDS:
            del self._calibrations[next(iter(self._calibrations))]
        return ModelDrafter(self._stage, vocab_size, sampling, width, calibration, leniency is not None)

    def record(
        self, text: Sequence[int], prompt_tokens: int, vocab_size: int, sampling: Sampling
    ) -> tuple[Row, ...]:
        """What this model thought at each new token of a finished text; on the torch thread."""
        return record(self._stage, text, prompt_tokens, vocab_size, sampling)

    def sparse_drafter(
        self, vocab_size: int, sampling: Sampling, k: int, least: Callable[[], float]
    ) -> SparseDrafter:
        """One for the rule `rejection`: see SparseDrafter."""
        return SparseDrafter(self._stage, vocab_size, sampling, k, least)
