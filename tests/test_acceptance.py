"""The rule `match`: whatever is drafted, the text is the one that plain decoding gives, and its distribution exact."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from swarm.speculation.match import Walk, go_on, match
from swarm.speculation.processors import Processors
from swarm.speculation.sampling import Sampling, choose

VOCAB = 5
LENGTH = 12

Model = Callable[[tuple[int, ...]], Tensor]
"""Logits [vocab] after a text."""


def table_model(seed: int, vocab: int = VOCAB) -> Model:
    """A language model that looks its logits up: random ones for every text."""

    @functools.cache
    def logits(text: tuple[int, ...]) -> Tensor:
        chance = random.Random(f"{seed} {text}")
        return torch.tensor([chance.gauss(0, 1.5) for _ in range(vocab)])

    return logits


def verify(model: Model, text: Sequence[int], drafts: Sequence[int], sampling: Sampling) -> list[int]:
    """One trip: all rows at once, then the rule."""
    rows = [model((*text, *drafts[:i])) for i in range(len(drafts) + 1)]
    tokens, nodes = match(torch.stack(rows), text, drafts, sampling)
    assert nodes == list(range(len(tokens) - 1))
    return tokens


def verify_tree(
    model: Model, text: Sequence[int], drafts: Sequence[int], parents: Sequence[int], sampling: Sampling
) -> tuple[list[int], list[int]]:
    """The same for a tree; the nodes that stand, too."""
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(drafts, parents, strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    rows = [model((*text, *path)) for path in [(), *paths]]
    return match(torch.stack(rows), text, drafts, sampling, parents)


def decode_plainly(model: Model, prompt: list[int], sampling: Sampling) -> list[int]:
    """Token by token."""
    text = list(prompt)
    while len(text) < len(prompt) + LENGTH:
        text += choose(model(tuple(text)).unsqueeze(0), text, [], sampling)
    return text


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 2, 4]),
    top_p=st.sampled_from([0.6, 0.95, 1.0]),
    processors=st.sampled_from([None, *(Processors(repetition_penalty=one) for one in (0.8, 1.5))]),
    seed=st.integers(0, (1 << 63) - 1),
)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 1 << 32),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4),
    samplings,
    st.floats(0, 1),
    st.randoms(use_true_random=False),
)
def test_text_is_that_of_plain_decoding_whatever_is_drafted(
    seed: int, prompt: list[int], sampling: Sampling, skill: float, chance: random.Random
) -> None:
    model = table_model(seed)
    expected = decode_plainly(model, prompt, sampling)
    foresight = [*expected, *(0 for _ in range(10))]
    text = list(prompt)
    while len(text) < len(expected):
        window = chance.randrange(6)
        drafts = [
            foresight[len(text) + i] if chance.random() < skill else chance.randrange(VOCAB) for i in range(window)
        ]
        tokens = verify(model, text, drafts, sampling)
        assert 1 <= len(tokens) <= window + 1
        assert tokens[:-1] == drafts[: len(tokens) - 1]
        text += tokens
    assert text[: len(expected)] == expected


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32), samplings, st.integers(1, 12), st.randoms(use_true_random=False))
def test_text_is_that_of_plain_decoding_whatever_tree_is_drafted(
    seed: int, sampling: Sampling, size: int, chance: random.Random
) -> None:
    model = table_model(seed)
    expected = decode_plainly(model, [1], sampling)
    text = [1]
    while len(text) < len(expected):
        parents = [chance.randrange(-1, node) for node in range(size)]
        drafts = [chance.randrange(VOCAB) for _ in range(size)]
        tokens, nodes = verify_tree(model, text, drafts, parents, sampling)
        assert [drafts[node] for node in nodes] == tokens[:-1]
        assert [parents[node] for node in nodes] == [-1, *nodes][: len(nodes)]
        last = nodes[-1] if nodes else -1
        assert not any(parents[i] == last and drafts[i] == tokens[-1] for i in range(size))
        text += tokens
    assert text[: len(expected)] == expected[: len(text)]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32), samplings, st.integers(1, 12), st.randoms(use_true_random=False))
def test_a_tree_that_comes_in_pieces_is_judged_as_the_whole(
    seed: int, sampling: Sampling, size: int, chance: random.Random
) -> None:
    model = table_model(seed)
    parents = [chance.randrange(-1, node) for node in range(size)]
    drafts = [chance.randrange(VOCAB) for _ in range(size)]
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(drafts, parents, strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    rows = torch.stack([model((1, *path)) for path in [(), *paths]])
    first = chance.randrange(size + 1)
    tokens, nodes = match(rows[: first + 1], [1], drafts[:first], sampling, parents[:first])
    walk = Walk((1, *tokens), nodes[-1] if nodes else -1)
    while first < size:
        end = chance.randrange(first, size) + 1
        walk, more = go_on(walk, rows[first + 1 : end + 1], drafts[first:end], sampling, parents[first:end], first)
        assert walk.node == (more or nodes or [-1])[-1]
        nodes += more
        first = end
    text = decode_plainly(model, [1], sampling)
    assert list(walk.text)[: len(text)] == text[: len(walk.text)]
    assert [drafts[node] for node in nodes] == list(walk.text[1:-1])
    whole, _ = match(rows, [1], drafts, sampling, parents)
    assert len(whole) >= len(walk.text) - 1  # a child that comes twice may have been taken where it came first


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), samplings, st.integers(0, 8))
def test_perfect_draft_stands_whole_and_brings_one_token_more(seed: int, sampling: Sampling, window: int) -> None:
    model = table_model(seed)
    expected = decode_plainly(model, [1], sampling)
    drafts = expected[1 : 1 + window]
    assert verify(model, [1], drafts, sampling) == expected[1 : 2 + window]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), samplings, st.integers(0, 5), st.integers(1, VOCAB - 1))
def test_first_wrong_draft_is_replaced_by_the_targets_own_token(
    seed: int, sampling: Sampling, right: int, offset: int
) -> None:
    model = table_model(seed)
    expected = decode_plainly(model, [1], sampling)
    wrong = (expected[1 + right] + offset) % VOCAB
    drafts = [*expected[1 : 1 + right], wrong, *expected[2 + right : 4 + right]]
    assert verify(model, [1], drafts, sampling) == expected[1 : 2 + right]


@pytest.mark.parametrize(
    ("is_good", "options"),
    [(False, {"temperature": 1.0}), (True, {"temperature": 0.7, "top_k": 3, "top_p": 0.97})],
    ids=["bad draft", "good draft, narrowed"],
)
def test_distribution_of_two_tokens_is_exact_with_speculation(is_good: bool, options: dict[str, float]) -> None:
    vocab, samples, prompt = 4, 20_000, (0,)
    model = table_model(42, vocab)
    drafts = [int(model(prompt).argsort()[-1 if is_good else 0])]
    rows = torch.stack([model(prompt), model((*prompt, *drafts))])
    counts: Counter[tuple[int, ...]] = Counter()
    accepted = 0
    for seed in range(samples):
        sampling = Sampling(**options, seed=seed)
        tokens, _ = match(rows, prompt, drafts, sampling)
        accepted += len(tokens) - 1
        if len(tokens) < 2:
            tokens += verify(model, (*prompt, *tokens), [], sampling)
        counts[tuple(tokens[:2])] += 1
    expected = two_token_probabilities(model, prompt, Sampling(**options), vocab)
    assert (accepted > 0.4 * samples) == is_good
    assert counts.keys() <= expected.keys()
    observed = [counts[pair] for pair in expected]
    assert chisquare(observed, [samples * share for share in expected.values()]).pvalue > 1e-3


def two_token_probabilities(
    model: Model, prompt: tuple[int, ...], sampling: Sampling, vocab: int
) -> dict[tuple[int, int], float]:
    """p(a) p(b | a) of every pair that can come, from the definition of temperature, top-k and top-p."""

    def after(text: tuple[int, ...]) -> dict[int, float]:
        left = (model(text).double() / sampling.temperature).softmax(-1)
        ranked = sorted(range(vocab), key=lambda token: -left[token])
        ranked = ranked[: sampling.top_k or vocab]
        total, kept, mass = sum(float(left[token]) for token in ranked), [], 0.0
        for token in ranked:
            if mass < sampling.top_p:
                kept.append(token)
            mass += float(left[token]) / total
        total = sum(float(left[token]) for token in kept)
        return {token: float(left[token]) / total for token in kept}

    return {(a, b): p * q for a, p in after(prompt).items() for b, q in after((*prompt, a)).items()}
