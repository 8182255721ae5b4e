"""The drafters: what they look up, and that what was drafted or rejected before never shows."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.drafting import ModelDrafter, NgramDrafter, NoDrafter
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Stage
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from tests.models import VOCAB, save_llama

texts = st.lists(st.integers(0, 3), min_size=1, max_size=30)


def look_up(text: list[int], count: int, longest: int) -> list[int]:
    """The definition, spelt out: longest suffix first, then the latest place where it stood before."""
    for size in range(longest, 0, -1):
        for start in range(len(text) - 1, -1, -1):
            end = start + size
            if end < len(text) and len(text) >= size and text[start:end] == text[len(text) - size :]:
                return text[end : end + count]
    return []


@pytest.mark.parametrize(
    ("text", "count", "drafts"),
    [
        ([1, 2, 3, 9, 9, 1, 2, 3], 2, [9, 9]),
        ([7, 2, 5, 1, 2, 6, 1, 2], 1, [6]),
        ([5, 3, 8, 3, 9, 3], 2, [9, 3]),
        ([1, 2, 3, 4, 8, 3, 4, 7, 1, 2, 3, 4], 1, [8]),
        ([4, 4, 4], 5, [4]),
        ([1, 2, 1, 2], 8, [1, 2]),
        ([1, 2, 3], 4, []),
        ([1], 4, []),
        ([1, 2, 1], 0, []),
    ],
    ids=[
        "continuation",
        "longest suffix",
        "latest occurrence",
        "longer beats later",
        "to the end of the text",
        "overlap",
        "nothing repeats",
        "one token",
        "none wanted",
    ],
)
def test_ngram_drafter_continues_as_the_text_did_before(text: list[int], count: int, drafts: list[int]) -> None:
    assert NgramDrafter().propose(text, count) == drafts


@settings(max_examples=300, deadline=None)
@given(texts, st.integers(0, 8), st.integers(1, 5))
def test_ngram_drafter_takes_longest_suffix_and_latest_occurrence(
    text: list[int], count: int, longest: int
) -> None:
    before = list(text)
    assert NgramDrafter(longest).propose(text, count) == look_up(text, count, longest)
    assert text == before


@settings(max_examples=30, deadline=None)
@given(texts, st.integers(0, 8))
def test_no_drafter_proposes_nothing(text: list[int], count: int) -> None:
    assert NoDrafter().propose(text, count) == []


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A whole small model."""
    source = ModelSource.resolve(str(save_llama(tmp_path_factory.mktemp("draft"), layers=2, hidden=16)))
    return load_stage(source, Span(0, 2))


SAMPLINGS = [
    Sampling(),
    Sampling(0.8, seed=3),
    Sampling(1.0, top_k=20, top_p=0.9, repetition_penalty=1.3, seed=4),
]


def from_scratch(stage: Stage, sampling: Sampling, text: list[int], count: int) -> list[int]:
    return ModelDrafter(stage, VOCAB, sampling).propose(text, count)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled", "narrowed"])
@pytest.mark.parametrize("seed", range(4))
def test_model_drafter_equals_one_from_scratch_after_any_history(
    seed: int, sampling: Sampling, stage: Stage
) -> None:
    chance = random.Random(seed)
    drafter = ModelDrafter(stage, VOCAB, sampling)
    text = [chance.randrange(VOCAB) for _ in range(chance.randrange(1, 40))]
    for _ in range(12):
        count = chance.randrange(7)
        before = list(text)
        drafts = drafter.propose(text, count)
        assert text == before
        assert drafts == from_scratch(stage, sampling, text, count)
        accepted = chance.randrange(count + 1)
        match chance.randrange(5):
            case 0:  # another text altogether
                text = [chance.randrange(VOCAB) for _ in range(chance.randrange(1, 40))]
            case 1:  # the same text again
                pass
            case 2:  # as if all that was asked for had stood, which is how one thinks ahead
                text += drafts
            case _:  # some drafts stand, then comes the target's own token
                text += [*drafts[:accepted], chance.randrange(VOCAB)]


def test_model_drafter_that_thought_ahead_says_the_same(stage: Stage) -> None:
    for sampling in SAMPLINGS:
        drafter = ModelDrafter(stage, VOCAB, sampling)
        text = [5, 6, 7]
        drafts = drafter.propose(text, 4)
        for steps in range(1, 6):
            drafter.propose([*text, *drafts], steps)
        own = from_scratch(stage, sampling, [*text, *drafts], 1)
        assert drafter.propose([*text, *drafts, *own], 4) == from_scratch(
            stage, sampling, [*text, *drafts, *own], 4
        )
        other = [*text, *drafts[:2], (drafts[2] + 1) % VOCAB]
        assert drafter.propose(other, 4) == from_scratch(stage, sampling, other, 4)


def test_more_drafts_begin_with_fewer(stage: Stage) -> None:
    for sampling in SAMPLINGS:
        eight = from_scratch(stage, sampling, [1, 2, 3], 8)
        assert len(eight) == 8
        for count in range(8):
            assert from_scratch(stage, sampling, [1, 2, 3], count) == eight[:count]


def test_model_drafter_stops_where_its_context_ends(stage: Stage) -> None:
    end = stage.info.max_positions
    drafter = ModelDrafter(stage, VOCAB, Sampling(0.8, seed=1))
    text = [i % VOCAB for i in range(end - 3)]
    for length, room in (
        (end - 3, 3),
        (end - 2, 2),
        (end - 1, 1),
        (end, 0),
        (end + 1, 0),
        (end + 50, 0),
        (end - 3, 3),
    ):
        longer = [*text, *(9 for _ in range(length - len(text)))]
        assert len(drafter.propose(longer, 5)) == room
        assert len(drafter.propose(longer, 1)) == min(room, 1)


def test_model_drafter_proposes_only_tokens_that_the_target_has(stage: Stage) -> None:
    for sampling in SAMPLINGS:
        drafts = ModelDrafter(stage, 7, sampling).propose([1, 2, 3], 30)
        assert len(drafts) == 30
        assert max(drafts) < 7


def test_drafters_of_one_model_do_not_share_their_texts(stage: Stage) -> None:
    one, two = (ModelDrafter(stage, VOCAB, Sampling()) for _ in range(2))
    first, second = [1, 2, 3], [9, 8, 7, 6]
    for _ in range(3):
        for drafter, text in ((one, first), (two, second)):
            drafts = drafter.propose(text, 3)
            assert drafts == from_scratch(stage, Sampling(), text, 3)
            text.extend(drafts)
