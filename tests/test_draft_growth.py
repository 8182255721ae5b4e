"""Draft trees: they grow best first, take root anew, and their chances are learnt. No model is involved."""

from __future__ import annotations

import math
import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.drafting.growth import Growth, Node
from swarm.drafting.ngram import Repeats
from swarm.speculation.calibration import Calibration, Hint
from swarm.speculation.flight import Flight
from swarm.speculation.tree import DraftTree, depths, trunk


@cache
def scores_after(path: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """A model's first choices after a path and their scores, random ones that depend on the path alone."""
    chance = random.Random(f"{path}")
    scores = sorted((chance.gauss(0, 2) for _ in range(8)), reverse=True)
    return chance.sample(range(50), 8), scores


def work_out(growth: Growth, count: int, at_once: int = 1, before: tuple[int, ...] = ()) -> None:
    for _ in range(count):
        for node in growth.pick(at_once):
            growth.work_out(node, *scores_after((*before, *node.path())))


def new_growth(width: int = 4, room: int = 100) -> Growth:
    growth = Growth(width, Calibration())
    growth.limit(room)
    return growth


def best_paths(size: int, width: int) -> list[tuple[float, tuple[int, ...]]]:
    """The `size` likeliest paths by definition: everything to some depth, sorted."""
    calibration = Calibration()
    found: list[tuple[float, tuple[int, ...]]] = []
    waiting: list[tuple[float, tuple[int, ...]]] = [(1.0, ())]
    while waiting:
        chance, path = waiting.pop()
        tokens, scores = scores_after(path)
        for token, share in zip(tokens[:width], calibration.chances(scores), strict=False):
            if chance * share > 0.004:
                found.append((chance * share, (*path, token)))
                waiting.append(found[-1])
    return sorted(found, reverse=True)[:size]


@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_best_nodes_are_those_of_the_whole_tree(width: int) -> None:
    growth = new_growth(width)
    size = 10
    while len(growth.best(size)) < size or growth.best(size)[-1].chance < growth.promise:
        work_out(growth, 1)
    found = [(node.chance, tuple(node.path())) for node in growth.best(size)]
    assert found == [(pytest.approx(chance), path) for chance, path in best_paths(size, width)]


def test_a_tree_of_its_nodes_has_parents_first_and_the_likeliest_branch_as_its_trunk() -> None:
    growth = new_growth()
    work_out(growth, 20)
    tree = growth.tree(16)
    assert len(tree) == 16
    paths = [node.path() for node in growth.best(16)]
    for node in range(16):
        path = [tree.tokens[node]]
        above = tree.parents[node]
        while above >= 0:
            path.insert(0, tree.tokens[above])
            above = tree.parents[above]
        assert path in paths
        assert tree.parents[node] < node
    assert trunk(tree.parents) == next(i for i, node in enumerate(tree.parents) if i and node != i - 1)
    assert sorted(tree.chances, reverse=True) == [node.chance for node in growth.best(16)]


def test_width_one_makes_a_chain() -> None:
    growth = new_growth(1)
    work_out(growth, 5)
    assert growth.tree(5).is_chain


@pytest.mark.parametrize("room", [0, 1, 3])
def test_no_node_is_farther_than_the_room(room: int) -> None:
    growth = new_growth(room=room)
    work_out(growth, 30)
    tree = growth.tree(100)
    assert max([1 + depth for depth in depths(tree.parents)], default=0) == room


@pytest.mark.parametrize("seed", range(5))
def test_after_any_history_a_tree_is_as_one_that_began_there(seed: int) -> None:
    chance = random.Random(seed)
    growth, text = new_growth(), list[int]()
    for _ in range(10):
        work_out(growth, chance.randrange(12), chance.choice([1, 4]), tuple(text))
        tree = growth.tree(20)
        path = list[int]()
        node = chance.randrange(-1, len(tree))
        while node >= 0:
            path.insert(0, tree.tokens[node])
            node = tree.parents[node]
        path = [*path, chance.randrange(50)] if chance.random() < 0.5 or not path else path
        taken = growth.advance(path)
        assert [each.token for each in taken] == path[: len(taken)]
        text += path
        assert growth.root.token == text[-1]
        assert_consistent(growth, tuple(text))


def assert_consistent(growth: Growth, text: tuple[int, ...]) -> None:
    """Every node has the choices of its path, the chances of its calibration, and is open exactly if it waits."""
    calibration = growth._calibration
    assert (growth.root.chance, growth.root.depth, growth.root.parent) == (1.0, 0, None)
    nodes: list[Node] = [growth.root, *growth.nodes()]
    for node in nodes:
        if not node.is_open:
            tokens, scores = scores_after((*text, *node.path()))
            assert (node.choices, [*node.scores]) == (tokens, scores)
            shares = calibration.chances(scores)
            for i, child in enumerate(node.children):
                assert child.token == tokens[i]
                assert child.parent is node
                assert child.depth == node.depth + 1
                assert child.chance == pytest.approx(node.chance * shares[i])
            likely = [share for share in shares[:4] if share * node.chance >= 0.004]
            assert len(node.children) >= len(likely)
    waiting = {id(node) for _, _, node in growth._frontier}
    assert waiting == {id(node) for node in nodes if node.is_open}


def test_what_became_likely_with_the_text_branches_after_all() -> None:
    growth = new_growth(width=2)
    work_out(growth, 40)
    deep = min((node for node in growth.nodes() if not node.is_open), key=lambda node: node.chance)
    assert not deep.children or deep.chance < 0.1
    growth.advance(deep.path())
    assert growth.root is deep
    assert len(deep.children) == 2


def test_chances_are_those_with_which_choices_come_true() -> None:
    """Whatever the size of the errors of the draft's scores is: learnt within a hundred tokens."""
    for error in (0.4, 1.5):
        chance = random.Random(1)
        calibration, claimed, right = Calibration(), 0.0, 0
        for i in range(2000):
            scores = sorted((chance.gauss(0, 3) for _ in range(16)), reverse=True)
            target = [score + error * -math.log(-math.log(chance.random())) for score in scores]
            rank = target.index(max(target))
            if i >= 100:
                claimed += calibration.chances(scores)[0]
                right += rank == 0
            calibration.learn(scores, rank if rank < 12 else None)
        assert claimed == pytest.approx(right, rel=0.06)


def test_chances_stay_chances_whatever_is_learnt() -> None:
    calibration = Calibration()
    for rank in [None] * 200 + [15] * 200 + [0] * 200:
        calibration.learn([8.0 - i for i in range(16)], rank)
        chances = calibration.chances([3.0, 2.0, -40.0])
        assert all(0 <= share <= 1 for share in chances)
        assert sum(chances) <= 1
    assert calibration.chances([3.0, 2.0])[0] > 0.9


#             0         3
#           1   2         4
TREE = DraftTree((5, 6, 7, 8, 6), (-1, 0, 0, -1, 3))


@pytest.mark.parametrize(
    ("verdict", "nodes", "settled"),
    [
        ([9], [], 10),
        ([5, 9], [0], 11),
        ([5, 7, 9], [0, 2], 11),
        ([5, 6, 9], [0, 1], 12),
        ([8, 6, 9], [3, 4], 10),
        ([6, 9], None, None),
        ([8, 7, 9], None, None),
    ],
    ids=str,
)
def test_a_verdict_goes_down_a_tree(verdict: list[int], nodes: list[int] | None, settled: int | None) -> None:
    flight = Flight(7, 10, TREE)
    assert flight.advance(verdict) == (nodes is not None)
    assert flight.accepted == (nodes or [])
    assert flight.own == (9 if nodes is not None else None)
    assert not flight.judges([1] * 20)
    if settled is not None:
        assert flight.settled == settled
        assert flight.root is None


def test_a_text_goes_on_with_the_round_that_has_its_newest_token() -> None:
    flight = Flight(7, 10, TREE)
    flight.extend(8, DraftTree((9, 4, 3), (1, 5, 0)))  # nodes 5, 6 after 5, and 7
    assert flight.advance([5, 6, 9])
    text = [0] * 12 + [9]
    assert (flight.root, flight.number, flight.judges(text)) == (5, 8, True)
    assert not flight.judges(text[1:])
    assert not flight.judges([*text[:-1], 8])
    flight.extend(9, DraftTree((2,), (6,)))
    assert not flight.advance([3, 1])
    assert flight.advance([4, 2])
    assert (flight.accepted, flight.own, flight.root, flight.number) == ([0, 1, 5, 6], 2, 8, 9)
    assert flight.settled == 12  # what came later is not kept by position
    assert flight.advance([1])
    assert (flight.accepted[-1], flight.root, flight.number, flight.advance([1])) == (8, None, None, False)


def test_trunk_and_depths_of_a_tree() -> None:
    assert (trunk(TREE.parents), depths(TREE.parents)) == (2, [0, 1, 1, 0, 1])
    assert DraftTree.chain([1, 2, 3]).is_chain
    assert not TREE.is_chain
    assert TREE.cut(2) == DraftTree.chain([5, 6])
    assert (trunk(()), depths(())) == (0, [])


def test_a_hint_is_believed_as_far_as_it_has_been_right() -> None:
    scores, hint = [2.0, 1.0, 0.0, -1.0], Hint(3, 4)
    good, bad = Calibration(), Calibration()
    for _ in range(100):
        good.learn(scores, 3, hint)
        bad.learn(scores, 0, hint)
    assert good.chances(scores, hint)[3] > 0.8
    assert bad.chances(scores, hint)[3] < 0.1
    assert good.chances(scores, Hint(3, 1))[3] < 0.2  # of a single equal token nothing is known
    assert sum(good.chances(scores, hint)) <= 1


def test_a_hint_becomes_a_branch() -> None:
    growth = new_growth(width=2)
    for _ in range(60):
        growth.work_out(growth.pick(1)[0], [1, 2, 3, 4], [3.0, 2.0, 1.0, -2.0], Hint(3, 4))
        growth.advance([4])
    growth.work_out(growth.pick(1)[0], [1, 2, 3, 4], [3.0, 2.0, 1.0, -2.0], Hint(3, 4))
    assert [child.token for child in growth.root.children] == [4, 1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 30), st.integers(1, 4))
def test_what_followed_the_longest_end_before_is_found(text: list[int], known: int, longest: int) -> None:
    repeats = Repeats(longest)
    repeats.follow(text[:known])
    repeats.follow(text)
    found = None
    for size in range(longest, 0, -1):
        places = [i for i in range(size, len(text)) if len(text) >= size and text[i - size : i] == text[-size:]]
        if places:
            found = (text[places[-1]], size)
            break
    assert repeats.after(text) == found
