"""The drafters: what they look up, and that what was drafted or rejected before never shows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.loop import Draft
from swarm.drafting.drafter import Drafter, NoDrafter
from swarm.drafting.model import DraftModel, ModelDrafter
from swarm.drafting.ngram import NgramDrafter, continuation
from swarm.drafting.sparse import SparseDrafter
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Slice, Stage
from swarm.span import Span
from swarm.speculation.cost import Cost
from swarm.speculation.overlap import Overlap
from swarm.speculation.processors import Processors
from swarm.speculation.sampling import Sampling, choose, contest
from swarm.speculation.tree import NOTHING, DraftTree, depths
from swarm.speculation.windows import FixedWindow
from tests.models import VOCAB, save_llama

texts = st.lists(st.integers(0, 3), min_size=1, max_size=30)
FAR = 1000


def drafts(drafter: Drafter, text: Sequence[int], size: int, room: int = FAR) -> DraftTree:
    """What it says when it may work until nothing better can come."""
    drafter.follow(text, room)
    while not is_sure(drafter, size) and drafter.grow():
        pass
    return drafter.tree(size)


def is_sure(drafter: Drafter, size: int) -> bool:
    chances = drafter.chances(size)
    return len(chances) == size and (size == 0 or chances[-1] >= drafter.promise)


def look_up(text: list[int], longest: int) -> list[int]:
    """The definition, spelt out: longest suffix first, then the latest place where it stood before."""
    for size in range(longest, 0, -1):
        for start in range(len(text) - 1, -1, -1):
            end = start + size
            if end < len(text) and len(text) >= size and text[start:end] == text[len(text) - size :]:
                return text[end:]
    return []


@pytest.mark.parametrize(
    ("text", "count", "tokens"),
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
def test_ngram_drafter_continues_as_the_text_did_before(text: list[int], count: int, tokens: list[int]) -> None:
    tree = drafts(NgramDrafter(), text, count)
    assert list(tree.tokens) == tokens
    assert tree.is_chain


@settings(max_examples=300, deadline=None)
@given(texts, st.integers(1, 5))
def test_longest_suffix_and_latest_occurrence_are_looked_up(text: list[int], longest: int) -> None:
    before = list(text)
    assert continuation(text, longest) == look_up(text, longest)
    assert text == before


def test_ngram_drafter_knows_its_luck_and_its_room() -> None:
    lucky, unlucky = NgramDrafter(), NgramDrafter()
    text = [1, 2, 3] * 5
    for _ in range(30):
        drafts(lucky, text, 3)
        text += [text[-3]]
        drafts(unlucky, text, 3)
        unlucky.follow([*text, 9], FAR)
    assert drafts(lucky, text, 3).chances[0] > 0.8
    assert drafts(unlucky, text, 3).chances[0] < 0.2
    assert len(drafts(lucky, text, 3, room=2)) == 2
    assert drafts(lucky, text, 3, room=0) == NOTHING


@settings(max_examples=30, deadline=None)
@given(texts, st.integers(0, 8))
def test_no_drafter_proposes_nothing(text: list[int], count: int) -> None:
    assert drafts(NoDrafter(), text, count) == NOTHING


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A whole small model."""
    source = ModelSource.resolve(str(save_llama(tmp_path_factory.mktemp("draft"), layers=2, hidden=16)))
    return load_stage(source, Span(0, 2))


SAMPLINGS = [
    Sampling(),
    Sampling(0.8, seed=3),
    Sampling(1.0, top_k=20, top_p=0.9, seed=4, processors=Processors(repetition_penalty=1.3)),
]
NAMES = ["greedy", "sampled", "narrowed"]


def test_a_draft_remembers_no_more_kinds_of_sampling_than_a_few(stage: Stage) -> None:
    """Each stranger may have wishes of their own."""
    model = DraftModel(stage)

    def calibration(temperature: float, seed: int = 1) -> object:
        sampling = Sampling(temperature, seed=seed, prompt_tokens=seed, max_length=9 + seed)
        return model.drafter(VOCAB, sampling, 1)._growth._calibration

    first = calibration(0.5)
    for i in range(1, 200):
        calibration(i / 10)
        assert calibration(0.5, seed=i) is first
    assert len(model._calibrations) < 50


def own_choices(stage: Stage, sampling: Sampling, text: list[int], count: int) -> list[int]:
    """The draft's own continuation, computed from the beginning for every token."""
    text, end = list(text), len(text) + count
    while len(text) < end:
        piece = Slice(stage.new_cache(), 0, torch.tensor(text), num_logits=1)
        text += choose(stage.forward([piece])[0], text, [], sampling)
    return text[end - count :]


def assert_ranked_by_the_draft(tree: DraftTree, stage: Stage, sampling: Sampling, text: list[int]) -> None:
    """Every node is one of the draft's first choices after its parents, and those before it are there, too."""
    paths: list[list[int]] = []
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        paths.append([*(paths[parent] if parent >= 0 else []), token])
    for node, parent in enumerate(tree.parents):
        context = [*text, *paths[node][:-1]]
        siblings = [tree.tokens[i] for i, other in enumerate(tree.parents) if other == parent]
        logits = stage.forward([Slice(stage.new_cache(), 0, torch.tensor(context), num_logits=1)])[0]
        choices, _ = contest(logits[0], context, sampling, len(siblings))
        assert siblings == choices


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_model_drafter_ranks_by_the_draft_after_any_history(
    seed: int, sampling: Sampling, width: int, stage: Stage
) -> None:
    chance = random.Random(seed)
    drafter = ModelDrafter(stage, VOCAB, sampling, width)
    text = [chance.randrange(VOCAB) for _ in range(chance.randrange(1, 40))]
    for _ in range(12):
        size = chance.randrange(9)
        before = list(text)
        tree = drafts(drafter, text, size)
        assert text == before
        assert_ranked_by_the_draft(tree, stage, sampling, text)
        if width == 1:
            assert tree.is_chain
            assert list(tree.tokens) == own_choices(stage, sampling, text, len(tree))
        for _ in range(chance.randrange(4)):  # as while a round is in flight
            drafter.grow()
        node, path = chance.randrange(-1, len(tree)), list[int]()
        while node >= 0:
            path.insert(0, tree.tokens[node])
            node = tree.parents[node]
        match chance.randrange(5):
            case 0:  # another text altogether
                text = [chance.randrange(VOCAB) for _ in range(chance.randrange(1, 40))]
            case 1:  # the same text again
                pass
            case 2:  # all on the way to a node stands, and then comes what the draft holds likeliest
                text += [*path, *own_choices(stage, sampling, [*text, *path], 1)]
            case _:  # or any other token
                text += [*path, chance.randrange(VOCAB)]


def test_a_tree_of_drafts_has_the_likeliest_branch_first(stage: Stage) -> None:
    drafter = ModelDrafter(stage, VOCAB, Sampling(), 4)
    tree = drafts(drafter, [1, 2, 3], 12)
    assert len(tree) == 12
    assert not tree.is_chain
    assert sorted(tree.chances, reverse=True) == drafter.chances(12)
    firsts = [i for i, parent in enumerate(tree.parents) if parent == -1]
    assert [tree.chances[i] for i in firsts] == sorted((tree.chances[i] for i in firsts), reverse=True)
    smaller = drafts(ModelDrafter(stage, VOCAB, Sampling(), 4), [1, 2, 3], 6)
    assert sorted(smaller.chances, reverse=True) == pytest.approx(drafter.chances(6))


def test_a_chain_is_what_the_draft_would_say(stage: Stage) -> None:
    for sampling in SAMPLINGS:
        tree = drafts(ModelDrafter(stage, VOCAB, sampling, 1), [1, 2, 3], 4)
        assert list(tree.tokens) == own_choices(stage, sampling, [1, 2, 3], len(tree))


def test_what_was_thought_ahead_is_there_at_once(stage: Stage) -> None:
    drafter = ModelDrafter(stage, VOCAB, Sampling(), 4)
    text = [5, 6, 7]
    drafts(drafter, text, 4)
    while drafter.promise > 0.05 and drafter.grow():
        pass
    path = drafter.tree(4).tokens[:2]
    drafter.follow([*text, *path], FAR)
    assert drafter.chances(1)
    assert_ranked_by_the_draft(drafter.tree(8), stage, Sampling(), [*text, *path])


def test_model_drafter_stops_where_its_context_or_its_room_ends(stage: Stage) -> None:
    end = stage.info.max_positions
    drafter = ModelDrafter(stage, VOCAB, Sampling(0.8, seed=1), 2)
    text = [i % VOCAB for i in range(end - 3)]
    for length, room, deepest in (
        (end - 3, FAR, 3),
        (end - 2, FAR, 2),
        (end - 1, FAR, 1),
        (end, FAR, 0),
        (end + 1, FAR, 0),
        (end + 50, FAR, 0),
        (end - 3, 2, 2),
        (end - 3, 0, 0),
    ):
        longer = [*text, *(9 for _ in range(length - len(text)))]
        tree = drafts(drafter, longer, 12, room)
        assert max([1 + depth for depth in depths(tree.parents)], default=0) == deepest


def test_model_drafter_proposes_only_tokens_that_the_target_has(stage: Stage) -> None:
    for sampling in SAMPLINGS:
        tree = drafts(ModelDrafter(stage, 7, sampling, 3), [1, 2, 3], 20)
        assert len(tree) > 3
        assert max(tree.tokens) < 7


def test_a_text_with_a_token_that_the_draft_does_not_know_gets_no_drafts(stage: Stage) -> None:
    drafter = ModelDrafter(stage, VOCAB, Sampling(), 3)
    assert drafts(drafter, [1, stage.info.vocab_size, 2], 4) == NOTHING
    assert drafts(drafter, [1, 2, stage.info.vocab_size], 4) == NOTHING
    assert len(drafts(drafter, [1, 2], 4)) == 4


def test_drafters_of_one_model_do_not_share_their_texts(stage: Stage) -> None:
    one, two = (ModelDrafter(stage, VOCAB, Sampling(), 1) for _ in range(2))
    first, second = [1, 2, 3], [9, 8, 7, 6]
    for _ in range(3):
        for drafter, text in ((one, first), (two, second)):
            tokens = list(drafts(drafter, text, 3).tokens)
            assert tokens == own_choices(stage, Sampling(), text, 3)
            text.extend(tokens)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_a_long_text_that_is_read_in_parts_is_the_same_text(
    stage: Stage, is_sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others wait for the thread, they have it in between."""
    for module in ("model", "sparse"):
        monkeypatch.setattr(f"swarm.drafting.{module}.READ_TOKENS", 16)

    def drafter() -> Drafter:
        if is_sparse:
            return SparseDrafter(stage, VOCAB, Sampling(1.0), 8, lambda: 0.0)
        return ModelDrafter(stage, VOCAB, Sampling(), 2)

    text = [(7 * i) % 50 + 5 for i in range(2 * 16 + 10)]
    whole, parted = drafter(), drafter()
    parted.follow(text, FAR)
    reads = [parted.catch_up() for _ in range(3)]
    assert reads == [True, False, False]
    for one in (whole, parted):
        one.follow(text, FAR)
        for _ in range(4):
            assert one.grow()
    assert parted.tree(4).tokens == whole.tree(4).tokens
    parted.follow([*text, 9], FAR)
    assert not parted.catch_up()
    assert parted.grow()


class Counting(ThreadPoolExecutor):
    """Counts what it is given to do."""

    jobs = 0

    def submit(self, *arguments: Any, **options: Any) -> Any:
        self.jobs += 1
        return super().submit(*arguments, **options)


def test_where_a_thread_is_shared_each_step_of_drafting_is_a_job_of_its_own(stage: Stage) -> None:
    async def jobs(*, in_turns: bool) -> int:
        with Counting(1) as thread:
            cost = Cost()
            drafter, overlap = ModelDrafter(stage, VOCAB, Sampling(), 1), Overlap(cost, 1)
            draft = Draft(drafter, thread, FixedWindow(6), overlap, cost, in_turns=in_turns)
            tree = await draft.propose([5, 6, 7], FAR)
            assert len(tree) > 1
            return thread.jobs

    assert asyncio.run(jobs(in_turns=False)) == 1
    assert asyncio.run(jobs(in_turns=True)) >= 4  # following the text, reading it, and each draft
