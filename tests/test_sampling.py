"""Sampling is exact: frequencies against softmax, and every step against transformers' own processors."""

from __future__ import annotations

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from swarm.speculation.processors import Processors
from swarm.speculation.sampling import Sampling, choose, lead, narrow, shaped

VOCAB = 12
DRAWS = 20_000

samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 7, VOCAB, 100]),
    top_p=st.sampled_from([0.05, 0.3, 0.7, 0.9, 0.999, 1.0]),
    processors=st.sampled_from([None, *(Processors(repetition_penalty=one) for one in (0.7, 1.3, 2.5))]),
    seed=st.integers(0, (1 << 63) - 1),
)
token_lists = st.lists(st.integers(0, VOCAB - 1), max_size=8)


def random_logits(seed: int, rows: int, vocab: int = VOCAB) -> Tensor:
    """float32 [rows, vocab]"""
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def processed(logits: Tensor, context: list[int], sampling: Sampling) -> Tensor:
    """What transformers' generate would draw from after `context`: float64 [vocab], -inf where nothing may come."""
    steps = LogitsProcessorList()
    if sampling.processors is not None:
        steps.append(RepetitionPenaltyLogitsProcessor(sampling.processors.repetition_penalty))
    if sampling.temperature not in (0.0, 1.0):
        steps.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k > 0:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        steps.append(TopPLogitsWarper(sampling.top_p))
    scores: Tensor = steps(torch.tensor([context], dtype=torch.int64), logits.double().unsqueeze(0))
    return scores[0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, seed=1),
        Sampling(0.6, seed=2),
        Sampling(1.5, top_k=5, seed=3),
        Sampling(0.9, top_p=0.8, seed=4),
        Sampling(1.2, top_k=8, top_p=0.9, seed=5, processors=Processors(repetition_penalty=1.4)),
    ],
    ids=["plain", "temperature", "top-k", "top-p", "all"],
)
def test_frequencies_are_the_exact_probabilities(sampling: Sampling) -> None:
    logits, context = random_logits(6, 1) / 3, [3, 3, 9]
    rows = shaped(logits[0], context, sampling).expand(DRAWS, VOCAB)
    drawn = choose(rows, context, [3] * (DRAWS - 1), msgspec.structs.replace(sampling, processors=None))
    probabilities = processed(logits[0], context, sampling).softmax(-1)
    possible = probabilities > 0
    assert possible.sum() >= 4
    counts = torch.bincount(torch.tensor(drawn), minlength=VOCAB)
    assert counts[~possible].sum() == 0
    expected = probabilities[possible] / probabilities[possible].sum() * DRAWS
    assert chisquare(counts[possible].numpy(), expected.numpy()).pvalue > 1e-3


def test_frequencies_are_right_over_seeds_too() -> None:
    logits = random_logits(7, 1) / 3
    drawn = [choose(logits, [1, 2], [], Sampling(1.0, seed=seed))[0] for seed in range(DRAWS)]
    counts = torch.bincount(torch.tensor(drawn), minlength=VOCAB)
    assert chisquare(counts.numpy(), (logits[0].double().softmax(-1) * DRAWS).numpy()).pvalue > 1e-3


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 1 << 32),
    samplings.filter(lambda sampling: sampling.temperature > 0),
    st.sampled_from([5, 12, 300]),
)
def test_top_k_and_top_p_keep_what_transformers_keeps(seed: int, sampling: Sampling, vocab: int) -> None:
    logits = random_logits(seed, 1, vocab)[0]
    plain = Sampling(sampling.temperature, sampling.top_k, sampling.top_p)
    expected = processed(logits, [0], plain)
    scores, ids = narrow(logits.double() / sampling.temperature, plain)
    assert sorted(ids.tolist()) == torch.isfinite(expected).nonzero()[:, 0].tolist()
    torch.testing.assert_close(scores, expected[ids], rtol=1e-12, atol=0)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32), st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8), token_lists, samplings)
def test_penalty_is_that_of_transformers_in_every_row(
    seed: int, context: list[int], following: list[int], sampling: Sampling
) -> None:
    logits = random_logits(seed, len(following) + 1)
    greedy = Sampling(processors=sampling.processors)
    expected = [
        int(processed(row, context + following[:i], greedy).argmax()) for i, row in enumerate(logits.unbind())
    ]
    assert choose(logits, context, following, greedy) == expected


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32), token_lists, token_lists, samplings)
def test_several_rows_at_once_equal_one_by_one(
    seed: int, context: list[int], following: list[int], sampling: Sampling
) -> None:
    logits = random_logits(seed, len(following) + 1)
    before = logits.clone()
    one_by_one = [
        token
        for i in range(len(following) + 1)
        for token in choose(logits[i : i + 1], context + following[:i], [], sampling)
    ]
    assert choose(logits, context, following, sampling) == one_by_one
    assert torch.equal(logits, before)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 32), token_lists, samplings)
def test_drawn_token_is_one_that_transformers_could_draw(seed: int, context: list[int], sampling: Sampling) -> None:
    logits = random_logits(seed, 1)
    (drawn,) = choose(logits, context, [], sampling)
    if sampling.temperature > 0:
        assert torch.isfinite(processed(logits[0], context, sampling)[drawn])


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=3, top_p=0.5, seed=9)], ids=["plain", "narrowed"])
def test_temperature_zero_is_argmax(sampling: Sampling) -> None:
    logits = random_logits(8, 50)
    assert choose(logits, [1], [0] * 49, sampling) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("top_p", [1.0, 0.9, 1e-9])
@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-308, 5e-324])
def test_smallest_temperatures_are_argmax_too(temperature: float, top_p: float) -> None:
    """They are within the limits of the wire: no client may make a peer's computation fail."""
    for logits in (random_logits(9, 20), random_logits(9, 20) - 50):
        assert choose(logits, [1], [0] * 19, Sampling(temperature, top_p=top_p)) == logits.argmax(-1).tolist()


def test_greatest_temperature_is_nearly_uniform() -> None:
    logits = random_logits(10, 1).expand(5000, VOCAB)
    counts = torch.bincount(torch.tensor(choose(logits, [1], [0] * 4999, Sampling(100.0))), minlength=VOCAB)
    assert counts.min() > 5000 / VOCAB / 1.5


def test_seed_changes_the_draw() -> None:
    logits = random_logits(11, 1).expand(50, VOCAB) * 0
    texts = {tuple(choose(logits, [1], [0] * 49, Sampling(1.0, seed=seed))) for seed in range(20)}
    assert len(texts) == 20


def test_tokens_that_the_model_forbids_never_come() -> None:
    logits = random_logits(12, 1).clone()
    logits[0, 4:] = float("-inf")
    for sampling in (
        Sampling(1.0),
        Sampling(1.0, top_k=8),
        Sampling(1.0, top_p=0.99),
        Sampling(1.0, processors=Processors(repetition_penalty=2)),
    ):
        drawn = choose(logits.expand(300, VOCAB), [1, 9], [0] * 299, sampling)
        assert max(drawn) < 4


@settings(deadline=None)
@given(sampling=samplings, seed=st.integers(0, 99), context=token_lists)
def test_only_the_choice_itself_has_no_lead_over_itself(sampling: Sampling, seed: int, context: list[int]) -> None:
    [row] = random_logits(seed, 1)
    [chosen] = choose(row[None], context, [], sampling)
    leads = [lead(row, context, token, sampling) for token in range(VOCAB)]
    assert leads[chosen] == 0.0
    assert all(one > 0.0 for token, one in enumerate(leads) if token != chosen)


@settings(deadline=None)
@given(
    sampling=samplings.filter(lambda one: one.top_p == 1.0),
    seed=st.integers(0, 99),
    error=st.sampled_from([1e-5, 1e-3, 1e-1]),
)
def test_an_error_in_the_logits_turns_near_ties_alone(sampling: Sampling, seed: int, error: float) -> None:
    """Two peers whose logits differ by so much at most: each sees the other's choice as a tie of about that size."""
    [row] = random_logits(seed, 1)
    other = row + error * (torch.rand(VOCAB, generator=torch.Generator().manual_seed(seed)) * 2 - 1)
    [chosen] = choose(other[None], [], [], sampling)
    assert lead(row, [], chosen, sampling) <= 2 * error / float(row.double().std()) + 1e-6
