"""The noise: a function of seed, position and id, and as random as Gumbel noise should be."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from swarm.speculation.noise import gumbel

VOCAB = 2048
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15

seeds = st.integers(0, (1 << 63) - 1)
positions = st.integers(0, 1 << 20)


@settings(max_examples=100, deadline=None)
@given(seeds, positions, st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=70))
def test_any_subset_in_any_order_has_the_bits_of_the_whole(seed: int, position: int, ids: list[int]) -> None:
    whole = gumbel(seed, position, torch.arange(VOCAB))
    assert torch.equal(gumbel(seed, position, torch.tensor(ids)), whole[torch.tensor(ids)])
    assert gumbel(seed, position, torch.tensor(ids[0])).item() == whole[ids[0]].item()


def test_memory_layout_of_the_ids_does_not_matter() -> None:
    ids = torch.arange(VOCAB)
    whole = gumbel(3, 4, ids)
    assert torch.equal(gumbel(3, 4, ids[::3]), whole[::3])
    assert torch.equal(gumbel(3, 4, ids.flip(0)), whole.flip(0))
    assert torch.equal(gumbel(3, 4, ids.view(32, 64).T), whole.view(32, 64).T)
    assert whole.dtype == torch.float64


@settings(max_examples=100, deadline=None)
@given(seeds, positions, st.integers(0, 1 << 31))
def test_noise_is_the_documented_hash_in_plain_integers(seed: int, position: int, token: int) -> None:
    """A text made with a seed can be made again, by any release and by any other program."""
    stream = mix(mix(seed) ^ position * GOLDEN & MASK)
    uniform = ((mix((token + 1) * GOLDEN + stream & MASK) >> 11) + 0.5) / 2**53
    expected = -math.log(-math.log(uniform))
    assert gumbel(seed, position, torch.tensor([token])).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(seeds, positions, st.integers(0, 1 << 18))
def test_noise_differs_by_seed_position_and_id(seed: int, position: int, token: int) -> None:
    ids = torch.tensor([token, token + 1])
    here = gumbel(seed, position, ids)
    assert here[0] != here[1]
    for elsewhere in (gumbel(seed ^ 1, position, ids), gumbel(seed, position + 1, ids)):
        assert not torch.isin(elsewhere, here).any()


def sample(count: int = 200_000) -> torch.Tensor:
    """Noise over many positions and ids of one seed: [count]."""
    return torch.cat([gumbel(1234, position, torch.arange(VOCAB)) for position in range(count // VOCAB)])


def test_mean_and_variance_are_gumbels() -> None:
    values = sample()
    variance = math.pi**2 / 6
    assert abs(values.mean().item() - 0.5772156649) < 4 * math.sqrt(variance / len(values))
    assert abs(values.var().item() / variance - 1) < 4 * math.sqrt(4.4 / len(values))  # kurtosis 5.4


@pytest.mark.parametrize(
    "draw",
    [
        lambda i: gumbel(77, 5, i),
        lambda i: torch.cat([gumbel(77, int(p), torch.tensor([11])) for p in i[:4000]]),
        lambda i: torch.cat([gumbel(int(s), 5, torch.tensor([11])) for s in i[:4000]]),
    ],
    ids=["over ids", "over positions", "over seeds"],
)
def test_noise_is_distributed_as_gumbel(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    uniform = torch.exp(-torch.exp(-draw(torch.arange(50_000))))
    assert kstest(uniform.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    "neighbour",
    [
        lambda position, ids: gumbel(9, position + 1, ids),
        lambda position, ids: gumbel(10, position, ids),
        lambda position, ids: gumbel(8, position - 1, ids),
        lambda position, ids: gumbel(9, position, ids + 1),
    ],
    ids=["next position", "next seed", "both", "next id"],
)
def test_neighbours_are_not_correlated(neighbour: Callable[[int, torch.Tensor], torch.Tensor]) -> None:
    ids = torch.arange(VOCAB)
    here = torch.cat([gumbel(9, position, ids) for position in range(1, 51)])
    there = torch.cat([neighbour(position, ids) for position in range(1, 51)])
    for a, b in ((here, there), (here.argsort().argsort(), there.argsort().argsort())):
        correlation = torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1].item()
        assert abs(correlation) < 4 / math.sqrt(len(here))


@pytest.mark.parametrize("bits", [0, MASK], ids=["least", "largest"])
def test_noise_is_finite_for_the_extreme_hash(bits: int) -> None:
    """Sixty-four equal bits are hashed to once in a blue moon; here they are made to come."""
    position, token = 3, 7
    stream = (unmix(bits) - (token + 1) * GOLDEN) & MASK
    seed = unmix(unmix(stream) ^ position * GOLDEN & MASK)
    value = gumbel(seed, position, torch.tensor([token]))
    extreme = gumbel(1, 1, torch.arange(100_000))
    assert not extreme.min() < value.item() < extreme.max()  # it is the hash that was meant
    assert torch.isfinite(value).all()


def mix(value: int) -> int:
    """splitmix64's finaliser (Steele et al., OOPSLA 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> shift)) * factor & MASK
    return value ^ (value >> 31)


def unmix(value: int) -> int:
    """The x for which mix(x) is `value`."""
    value = unshift(value, 31)
    for shift, factor in ((27, 0x94D049BB133111EB), (30, 0xBF58476D1CE4E5B9)):
        value = unshift(value * pow(factor, -1, 1 << 64) & MASK, shift)
    return value


def unshift(value: int, shift: int) -> int:
    """The x for which x ^ (x >> shift) is `value`."""
    found = value
    for _ in range(64 // shift):
        found = value ^ (found >> shift)
    return found
