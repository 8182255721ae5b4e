"""A session's cache takes memory as it grows, and the stage says beforehand how much."""

from __future__ import annotations

import model_zoo as zoo
import pytest
import torch

from swarm.errors import UsageError
from swarm.model.cache import PIECE, KVCache
from swarm.model.loading import load_stage
from swarm.model.stage import Slice, Stage
from swarm.span import Span


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """A stage with keys and values alike, and one where they differ in size."""
    return {
        family: load_stage(zoo.save(zoo.build(family), tmp_path_factory.mktemp(family)), Span(0, 5))
        for family in ("llama", "deepseek_v3")
    }


@pytest.mark.parametrize(("family", "expected"), [("llama", 5 * 2 * 16 * 4), ("deepseek_v3", 5 * 4 * (12 + 6) * 4)])
def test_bytes_per_token_are_known_before_any_cache_is(
    stages: dict[str, Stage], family: str, expected: int
) -> None:
    assert stages[family].cache_bytes_per_token == expected
    assert stages[family].part(Span(1, 3)).cache_bytes_per_token == expected // 5 * 2


@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_memory_held_is_what_the_capacity_says(stages: dict[str, Stage], family: str) -> None:
    stage = stages[family]
    cache = stage.new_cache()
    assert (cache.length, cache.capacity, cache.num_bytes) == (0, 0, 0)
    for position, count in ((0, 1), (1, PIECE - 1), (PIECE, 1), (PIECE + 1, 100)):
        promised = cache.capacity_for(position + count)
        stage.forward([Slice(cache, position, zoo.random_ids(count, seed=0))])
        assert cache.length == position + count
        assert cache.capacity == promised
        assert cache.num_bytes == promised * stage.cache_bytes_per_token


def test_capacity_grows_by_pieces_and_copies_in_linear_time() -> None:
    cache = KVCache(Span(0, 1))
    copied = 0
    for tokens in range(1, 20_001):
        before = cache.capacity
        cache.reserve(tokens)
        assert cache.capacity % PIECE == 0
        assert tokens <= cache.capacity <= max(tokens + PIECE, tokens * 9 // 8 + PIECE)
        copied += before if cache.capacity > before else 0
    assert copied < 10 * 20_000


def test_compact_keeps_a_path_and_forgets_the_rest() -> None:
    cache = KVCache(Span(3, 5))
    cache.reserve(10)
    tokens = torch.arange(10.0).view(1, 10, 1)
    for layer in (3, 4):
        cache.write(layer, 0, tokens, -tokens)
    cache.length = 10
    cache.compact(4, [0, 2, 5])
    keys, values = cache.read(4, 0, 7)
    assert cache.length == 7
    assert keys.flatten().tolist() == [0, 1, 2, 3, 4, 6, 9]
    assert torch.equal(values, -keys)


def test_round_that_would_leave_a_gap_is_refused_and_changes_nothing(stages: dict[str, Stage]) -> None:
    stage = stages["llama"]
    cache = stage.new_cache()
    stage.forward([Slice(cache, 0, zoo.random_ids(4, seed=0))])
    with pytest.raises(UsageError, match="gap"):
        stage.forward([Slice(cache, 5, zoo.random_ids(1, seed=0))])
    assert cache.length == 4


def test_round_past_the_last_position_of_the_model_is_refused(stages: dict[str, Stage]) -> None:
    with pytest.raises(UsageError, match="256"):
        stages["llama"].forward([Slice(stages["llama"].new_cache(), 0, zoo.random_ids(257, seed=0))])
