"""The rule `semantic`: its blend, its scores, and that a walk with it is lenient where it may be and nowhere else."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from swarm.speculation.evidence import MAX_WEIGHT, Evidence
from swarm.speculation.match import Walk, go_on, match
from swarm.speculation.sampling import Sampling, choose
from swarm.speculation.semantic import Lenience, Leniency, Scores, blend, log_shares, scores
from swarm.speculation.thresholds import LADDER, Trial, boldest
from swarm.speculation.tree import ROOT, branching
from tests.test_acceptance import samplings, table_model

VOCAB = 5
ALL = Leniency(tau=0.5, entropy=1.0, difference=1.0, disagreement=1.0)


def view_of(*shares: float, ids: tuple[int, ...] | None = None) -> Evidence:
    return Evidence(ids or tuple(range(len(shares))), tuple(round(share * 60_000) for share in shares))


def logs(*shares: float) -> Tensor:
    return torch.tensor(shares, dtype=torch.float64).log()


@st.composite
def views(draw: st.DrawFn, vocab: int = VOCAB) -> Evidence:
    ids = draw(st.lists(st.integers(0, vocab - 1), min_size=1, max_size=vocab, unique=True))
    return Evidence(tuple(ids), tuple(draw(st.integers(1, MAX_WEIGHT)) for _ in ids))


distributions = st.lists(st.floats(-9, 3), min_size=VOCAB, max_size=VOCAB).map(
    lambda values: torch.tensor(values, dtype=torch.float64).log_softmax(-1)
)


@settings(max_examples=200, deadline=None)
@given(distributions, views(), st.floats(0, 1))
def test_blend_keeps_the_targets_mass_on_the_support_and_leaves_the_rest(
    target: Tensor, view: Evidence, tau: float
) -> None:
    blended, support = blend(target, view, tau), list(view.ids)
    rest = [token for token in range(VOCAB) if token not in support]
    assert blended[support].exp().sum() == pytest.approx(float(target[support].exp().sum()))
    assert torch.equal(blended[rest], target[rest])
    weights = torch.tensor(view.weights, dtype=torch.float64)
    raw = target[support].exp() ** (1 - tau) * (weights / weights.sum()) ** tau
    assert blended[support].softmax(-1).tolist() == pytest.approx((raw / raw.sum()).tolist())


def test_what_only_the_target_thinks_of_stays_as_likely() -> None:
    """The trap: with q = 0 beside the support, P~ over the whole vocabulary would never draw token 2."""
    target, view = logs(0.2, 0.2, 0.6), view_of(0.9, 0.1)
    told = torch.tensor([0.9, 0.1, 0.0], dtype=torch.float64)
    trapped = target.exp() ** 0.7 * told**0.3
    assert trapped[2] == 0
    assert blend(target, view, 0.3)[2].exp() == pytest.approx(0.6)


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0])
def test_frequencies_are_those_of_the_blend_where_nothing_is_key(tau: float) -> None:
    sampling, samples, view = Sampling(0.8), 6_000, view_of(0.1, 0.6, 0.3, ids=(3, 0, 1))
    logits = torch.tensor([1.0, 0.2, 0.5, -0.4, -3.0])
    lenience = Lenience(Leniency(tau, 1.0, 1.0, 1.0), {ROOT: view})
    drawn: Counter[int] = Counter()
    for seed in range(samples):
        one = Sampling(0.8, seed=seed)
        drawn[lenience.token(logits, [1], one, ROOT, range(VOCAB))] += 1
    expected = blend(log_shares(logits, [1], sampling), view, tau).softmax(-1)
    observed = [drawn[token] for token in range(VOCAB)]
    assert chisquare(observed, (samples * expected).tolist()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("target", "view", "token", "expected"),
    [
        ((0.5, 0.3, 0.2), view_of(0.5, 0.3, 0.2), 0, Scores(0.0, 0.0, 0.0)),
        ((0.5, 0.3, 0.2), view_of(0.5, 0.3, 0.2), 2, Scores(0.0, 0.3, 0.0)),
        ((0.8, 0.2), view_of(0.5, 0.5), 1, Scores(1 - 0.500402 / math.log(2), 0.6, 1 - 0.7 / 1.3)),
        ((0.25, 0.25, 0.5), view_of(0.5, 0.5), 0, Scores(0.0, 0.25, 1 - 0.5 / 1.5)),
        ((0.25, 0.25, 0.5), view_of(1.0, ids=(2,)), 2, Scores(0.0, 0.0, 1 - 0.5 / 1.5)),
    ],
    ids=["alike", "alike, an unlikely token", "sure against in doubt", "half beside the support", "one choice"],
)
def test_scores_of_distributions_made_by_hand(
    target: tuple[float, ...], view: Evidence, token: int, expected: Scores
) -> None:
    found = scores(logs(*target), view, token)
    assert found.entropy == pytest.approx(expected.entropy, abs=1e-5)
    assert found.difference == pytest.approx(expected.difference, abs=1e-5)
    assert found.disagreement == pytest.approx(expected.disagreement, abs=1e-5)


@settings(max_examples=200, deadline=None)
@given(distributions, views(), st.integers(0, VOCAB - 1))
def test_scores_lie_between_0_and_1(target: Tensor, view: Evidence, token: int) -> None:
    found = scores(target, view, token)
    assert 0 <= found.entropy <= 1
    assert 0 <= found.difference <= 1
    assert 0 <= found.disagreement <= 1


def test_each_score_makes_a_token_key_by_itself() -> None:
    found = Scores(0.4, 0.5, 0.6)
    assert not found.are_key(Leniency(0.3, 0.41, 0.51, 0.61))
    assert found.are_key(Leniency(0.3, 0.4, 0.51, 0.61))
    assert found.are_key(Leniency(0.3, 0.41, 0.5, 0.61))
    assert found.are_key(Leniency(0.3, 0.41, 0.51, 0.6))


def test_walk_goes_on_where_the_target_is_in_doubt_and_ends_where_it_is_sure() -> None:
    sampling = Sampling()
    doubt, sure = torch.tensor([2.0, 1.999, -5.0]), torch.tensor([9.0, -5.0, -5.0])
    view = view_of(0.1, 0.9)
    lenient = Leniency(tau=0.5, entropy=0.9, difference=0.3, disagreement=0.9)
    for logits, strict, expected in ((doubt, [0], [1, 0]), (sure, [0], [0])):
        rows = torch.stack([logits, sure])
        assert match(rows, [2], [1], sampling)[0] == strict
        assert match(rows, [2], [1], sampling, (), Lenience(lenient, {ROOT: view}))[0] == expected


def test_own_token_stands_if_it_is_drafted_and_the_blends_is_not() -> None:
    rows, view = torch.tensor([[2.0, 1.9, -5.0], [0.0, 0.0, 9.0]]), view_of(0.1, 0.9)
    assert match(rows, [2], [0], Sampling(), (), Lenience(ALL, {ROOT: view})) == ([0, 2], [0])
    assert match(rows, [2], [1], Sampling(), (), Lenience(ALL, {ROOT: view})) == ([1, 2], [0])


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 1 << 32),
    samplings,
    st.integers(1, 12),
    st.sampled_from(["entropy", "difference", "disagreement"]),
    st.randoms(use_true_random=False),
)
def test_a_threshold_of_0_gives_the_text_of_match_whatever_tree_grows(
    seed: int, sampling: Sampling, size: int, score: str, chance: random.Random
) -> None:
    model = table_model(seed)
    strict = Leniency(**{"tau": 1.0, "entropy": 1.0, "difference": 1.0, "disagreement": 1.0, score: 0.0})
    parents = [chance.randrange(-1, node) for node in range(size)]
    drafts = [chance.randrange(VOCAB) for _ in range(size)]
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(drafts, parents, strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    rows = torch.stack([model((1, *path)) for path in [(), *paths]])
    told = {
        node: Evidence(tuple(range(VOCAB)), tuple(chance.randint(1, 60_000) for _ in range(VOCAB)))
        for node in branching(parents)
    }
    lenience, first = Lenience(strict, told), chance.randrange(size + 1)
    walks = []
    for one in (None, lenience):
        tokens, nodes = match(rows[: first + 1], [1], drafts[:first], sampling, parents[:first], one)
        walk = Walk((1, *tokens), nodes[-1] if nodes else ROOT)
        walk, more = go_on(walk, rows[first + 1 :], drafts[first:], sampling, parents[first:], first, one)
        walks.append((walk, nodes, more))
    assert walks[0] == walks[1]


def test_without_a_view_the_rule_is_match() -> None:
    logits = torch.tensor([0.3, 0.2, 0.1])
    for seed in range(50):
        sampling = Sampling(1.0, seed=seed)
        token = Lenience(ALL, {}).token(logits, [1], sampling, 4, [0, 1, 2])
        assert token == choose(logits[None], [1], [], sampling)[0]


def test_boldest_is_the_last_before_too_much_is_lost() -> None:
    def trial(right: int, leniency: Leniency | None = None) -> Trial:
        return Trial(leniency, asked=100, right=right, tokens=10, verdicts=1, seconds=1.0)

    trials = [trial(right, leniency) for right, leniency in zip((95, 94, 96, 93, 96, 10), LADDER, strict=True)]
    assert boldest(trial(95), trials, 1.0) is trials[2]
    assert boldest(trial(95), trials, 2.0) is trials[4]
    assert boldest(trial(95), trials, 100.0) is trials[5]
    assert boldest(trial(97), trials, 1.0) is None


def test_a_trial_adds_prompts_up() -> None:
    trial = Trial(None).with_answer(True, 30, 3, 2.0).with_answer(False, 10, 2, 2.0)
    assert (trial.accuracy, trial.per_verdict, trial.speed) == (50.0, 8.0, 10.0)
