"""The rule `rejection`: the distribution is the target's, whatever drafts were drawn from, if that is what is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from swarm.speculation.evidence import MAX_WEIGHT, Evidence, evidence
from swarm.speculation.noise import uniform
from swarm.speculation.rejection import DRAFTING, reject
from swarm.speculation.sampling import Sampling
from tests.test_acceptance import table_model, two_token_probabilities

VOCAB, SAMPLES = 12, 30_000
PROMPT = (3,)


def drafted(logits: Tensor, context: Sequence[int], sampling: Sampling, k: int) -> tuple[int, Evidence]:
    """A draft, drawn from what is told, and that."""
    proof = evidence(logits, context, sampling, k)
    return proof.draw(uniform(sampling.seed, len(context), DRAFTING)), proof


def p_value(*, told: int, drawn_from: int, is_good: bool, samples: int = SAMPLES) -> float:
    """Of two tokens' frequencies, where the first is drafted; against the definition of the target's distribution.

    So many of the draft's first choices are told, and drawn from.
    """
    target = table_model(42, VOCAB)
    draft = table_model(42 if is_good else 43, VOCAB)
    context = list(PROMPT)
    first, then = target(PROMPT), {a: target((*PROMPT, a)) for a in range(VOCAB)}
    rows = {a: torch.stack([first, then[a]]) for a in range(VOCAB)}
    guess = draft(PROMPT) * (0.8 if is_good else 1.5)
    proof, source = (evidence(guess, context, Sampling(1.0), k) for k in (told, drawn_from))
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(samples):
        sampling = Sampling(1.0, seed=seed)
        token = source.draw(uniform(seed, len(context), DRAFTING))
        tokens = reject(rows[token], context, [token], [proof], sampling)
        if len(tokens) < 2:
            tokens += reject(then[tokens[0]][None], [*context, *tokens], [], [], sampling)
        counts[tuple(tokens)] += 1
    expected = two_token_probabilities(target, PROMPT, Sampling(1.0), VOCAB)
    pairs = [pair for pair, share in expected.items() if share * samples >= 5]
    rest = samples - sum(counts[pair] for pair in pairs)
    observed = [*(counts[pair] for pair in pairs), rest]
    shares = [expected[pair] for pair in pairs]
    return float(chisquare(observed, [*(samples * s for s in shares), samples * (1 - sum(shares))]).pvalue)


@pytest.mark.parametrize("is_good", [True, False], ids=["good draft", "bad draft"])
@pytest.mark.parametrize("k", [2, 3, 8, VOCAB])
def test_frequencies_are_the_targets_whatever_k(k: int, is_good: bool) -> None:
    assert p_value(told=k, drawn_from=k, is_good=is_good) > 1e-3


@pytest.mark.parametrize("k", [2, 3])
def test_drawing_from_more_than_is_told_would_be_seen(k: int) -> None:
    """The trap: the K largest shares of the whole distribution are told as if they were all."""
    assert p_value(told=k, drawn_from=VOCAB, is_good=True) < 1e-6


logits_lists = st.lists(st.floats(-30, 30), min_size=1, max_size=20)


@settings(max_examples=200, deadline=None)
@given(logits_lists, st.integers(1, 30), st.floats(0, 1, exclude_max=True))
def test_what_is_drawn_is_what_is_told(values: list[float], k: int, place: float) -> None:
    proof = evidence(torch.tensor(values), [1], Sampling(0.7), k)
    assert proof == evidence(torch.tensor(values), [1], Sampling(0.7, seed=k), k)
    assert len(proof.ids) == len(proof.weights) <= min(k, len(values))
    assert proof.weights[0] == MAX_WEIGHT == max(proof.weights)
    assert min(proof.weights) > 0
    assert proof.probability(proof.draw(place)) > 0
    assert sum(proof.probability(token) for token in proof.ids) == pytest.approx(1)
    assert torch.tensor(values)[proof.ids[0]] == torch.tensor(values).max()


def test_draws_have_the_told_frequencies() -> None:
    proof = Evidence((4, 2, 9), (6, 3, 1))
    counts = Counter(proof.draw((i + 0.5) / 1000) for i in range(1000))
    assert counts == {4: 600, 2: 300, 9: 100}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0, 5), st.integers(0, 1 << 32))
def test_drafts_stand_up_to_the_first_that_does_not(seed: int, size: int, model: int) -> None:
    target, draft = table_model(model, VOCAB), table_model(model + 1, VOCAB)
    sampling, text = Sampling(0.9, top_k=7, seed=seed), [1]
    drafts: list[int] = []
    proofs: list[Evidence] = []
    for _ in range(size):
        token, proof = drafted(draft(tuple(text + drafts)), text + drafts, sampling, 4)
        drafts.append(token)
        proofs.append(proof)
    rows = torch.stack([target((1, *drafts[:i])) for i in range(size + 1)])
    tokens = reject(rows, text, drafts, proofs, sampling)
    assert 1 <= len(tokens) <= size + 1
    assert tokens[:-1] == drafts[: len(tokens) - 1]
    for i, token in enumerate(tokens):
        assert token in rows[i].topk(7).indices
    assert tokens == reject(rows, text, drafts, proofs, sampling)
    sure = [Evidence((token,), (MAX_WEIGHT,)) for token in drafts]
    peaks = torch.nn.functional.one_hot(torch.tensor(drafts, dtype=torch.int64), VOCAB) * 99.0
    assert reject(torch.cat([peaks.float(), rows[-1:]]), text, drafts, sure, sampling)[:-1] == drafts


def test_random_numbers_for_different_ends_are_independent() -> None:
    numbers = torch.tensor([[uniform(seed, 7, purpose) for purpose in range(3)] for seed in range(4000)])
    assert float(numbers.min()) > 0 and float(numbers.max()) < 1
    assert torch.allclose(numbers.mean(0), torch.full((3,), 0.5, dtype=numbers.dtype), atol=0.02)
    assert (torch.corrcoef(numbers.T) - torch.eye(3)).abs().max() < 0.05
