"""How often draft and target choose the same token: with the noise that they share, and each with noise of its own.

Both models of the embedded pair in this process, along texts that the target samples itself. Of the target's
distribution p and the draft's q, 1 - TV = the sum of min(p, q) is the most that any pair of choosers can agree; noise
that is shared reaches (1 - TV) / (1 + TV) at least, without a word between the two (Daliri et al., arXiv 2408.07978).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor

from benchmarks.bar import Bar
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Slice, Stage
from swarm.span import Span
from swarm.speculation.sampling import Sampling, choose, contest

TEMPERATURES = (0.8, 1.0)
TOKENS = 256
"""Most new ones of a text."""
PROMPTS = 16
"""Of each kind."""
ALL = "all"

GAP = Bar("shared noise alone: agreement against 1 - total variation", 0.06, "apart")


@dataclass(frozen=True, slots=True)
class Position:
    """One position of a text."""

    overlap: float
    """1 - TV of the two distributions."""
    expected: float
    """The chance that both choose the same with shared noise, ..."""
    shared: bool
    """... whether they do with that of the text, ..."""
    apart: bool
    """... and whether they do with other noise for the draft."""


@dataclass(frozen=True)
class Row:
    """All positions of one kind of text at one temperature: means of the figures of each."""

    kind: str
    temperature: float
    positions: int
    overlap: float
    expected: float
    shared: float
    apart: float


def run(texts: Mapping[str, Sequence[str]], tokens: int = TOKENS) -> list[Row]:
    """Rows for each temperature: of each kind of prompt, and of all."""
    source = ModelSource.resolve("embedded")
    target, draft = _whole(source), _whole(ModelSource.resolve("embedded-draft"))
    tokenizer, rows = source.tokenizer(), []
    for temperature in TEMPERATURES:
        found: dict[str, list[Position]] = {}
        for kind, prompts in texts.items():
            for seed, prompt in enumerate(prompts):
                walk = _walk(
                    target, draft, tokenizer(prompt)["input_ids"], temperature, seed, tokens, source.eos_token_ids
                )
                found.setdefault(kind, []).extend(walk)
        found[ALL] = [position for positions in found.values() for position in positions]
        rows += [_row(kind, temperature, positions) for kind, positions in found.items()]
    return rows


def figures(rows: Sequence[Row]) -> dict[Bar, float]:
    """The widest gap, over all texts of a temperature."""
    return {GAP: max(abs(row.shared - row.overlap) for row in rows if row.kind == ALL)}


def overlap(p: Tensor, q: Tensor) -> float:
    """1 - TV of two distributions [vocab]."""
    return float(torch.minimum(p, q).sum())


def expected_agreement(p: Tensor, q: Tensor) -> float:
    """The chance that argmax(log p + noise) and argmax(log q + noise), of the same Gumbel noise, are one token.

    Gumbel noise is -log of exponential times E: the choices are the least E / p and E / q. Both are x if for every y
    E_y > E_x max(p_y / p_x, q_y / q_x): that has the chance 1 / (sum over y of these maxima). Sorted by p / q, the
    maximum is q's for all y before x, and p's from x on.
    """
    order = (p / q).argsort()
    p, q = p[order], q[order]
    from_here = p.flip(0).cumsum(0).flip(0)
    before = q.cumsum(0) - q
    return float((1 / (from_here / p + before / q)).sum())


def _walk(
    target: Stage,
    draft: Stage,
    prompt: Sequence[int],
    temperature: float,
    seed: int,
    tokens: int,
    ends: Container[int],
) -> Iterator[Position]:
    """The positions of a text that the target samples after a prompt."""
    text, rows = list(prompt), []
    sampling, other = Sampling(temperature, seed=seed), Sampling(temperature, seed=seed + (1 << 32))
    cache, start = target.new_cache(), 0
    for _ in range(min(tokens, target.info.max_positions - len(prompt))):
        rows.append(target.forward([Slice(cache, start, torch.tensor(text[start:]), num_logits=1)])[0])
        start = len(text)
        text += choose(rows[-1], text, [], sampling)
        if text[-1] in ends:
            break
    inputs = Slice(draft.new_cache(), 0, torch.tensor(text[:-1]), num_logits=len(rows))
    for i, (row, guess) in enumerate(zip(rows, draft.forward([inputs])[0], strict=True), start=len(prompt)):
        p, q = ((logits.double() / temperature).softmax(-1) for logits in (row[0], guess))
        (same,), _ = contest(guess, text[:i], sampling, 1)
        (apart,), _ = contest(guess, text[:i], other, 1)
        yield Position(overlap(p, q), expected_agreement(p, q), same == text[i], apart == text[i])


def _whole(source: ModelSource) -> Stage:
    return load_stage(source, Span(0, source.info.num_layers))


def _row(kind: str, temperature: float, positions: Sequence[Position]) -> Row:
    return Row(
        kind=kind,
        temperature=temperature,
        positions=len(positions),
        overlap=mean(one.overlap for one in positions),
        expected=mean(one.expected for one in positions),
        shared=mean(one.shared for one in positions),
        apart=mean(one.apart for one in positions),
    )
