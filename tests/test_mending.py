"""What a broken chain lacks, and from where each hop must be given its text again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.mending import Gap, gaps, resume_points, stuck_at
from client.routing import Hop
from swarm.span import Span
from swarm.wire import Contact, Progress
from tests.toy_swarm import introduction

SESSION = b"s" * 16
LIMIT = 100


def report(held: int = LIMIT + 3, kept: int = 0, *, taken: int = 5, waiting: int = 0) -> Progress:
    return Progress(SESSION, 1, taken, held, waiting, kept, held, 0, 0)


@pytest.mark.parametrize(
    ("reports", "points"),
    [
        ([report(), None, report(), report()], [LIMIT, 0, LIMIT, LIMIT]),
        ([report(), None, None, report()], [LIMIT, 0, 0, LIMIT]),
        ([None, report(), report()], [0, LIMIT, LIMIT]),
        ([report(), report(), None], [LIMIT, LIMIT, 0]),
        ([report(), None, report(), None], [LIMIT, 0, LIMIT, 0]),
        ([report(), report(kept=40), None], [LIMIT, 0, 0]),
        ([report(kept=1), report(kept=40), None], [0, 0, 0]),
        ([report(kept=40), report(), None], [LIMIT, LIMIT, 0]),
        ([report(held=60), report(held=50), report(held=40)], [60, 50, 40]),
        ([report(held=60, kept=50), report(held=50), report(held=40)], [60, 50, 40]),
        ([report(held=60, kept=51), report(held=50), report(held=40)], [50, 50, 40]),
        ([report(), report()], [LIMIT, LIMIT]),
        ([None, None], [0, 0]),
    ],
    ids=[
        "a middle hop",
        "two neighbours, or one peer replaced by two",
        "the first hop",
        "the last hop",
        "two that are no neighbours",
        "the hop before has dropped its log",
        "so have all before it",
        "one further back has, which does not matter",
        "during the first prefill",
        "with a log that just reaches back",
        "with a log that does not",
        "nobody",
        "everybody",
    ],
)
def test_each_hop_gets_what_it_lacks_and_no_more(reports: list[Progress | None], points: list[int]) -> None:
    assert resume_points(reports, LIMIT) == points


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.none() | st.builds(report, held=st.integers(0, 110), kept=st.integers(0, 110)), min_size=1, max_size=6
    )
)
def test_every_hop_can_be_fed_from_its_point_on(reports: list[Progress | None]) -> None:
    points = resume_points(reports, LIMIT)
    for i, (one, point) in enumerate(zip(reports, points, strict=True)):
        held = one.held if one else 0
        assert point <= min(held, LIMIT)  # no gap
        following = points[i + 1] if i + 1 < len(points) else LIMIT
        kept = one.kept if one else 0
        assert point <= following or kept <= following  # out of its log, or because it computes it again
        if one is not None and kept <= following:
            assert point == min(held, LIMIT)  # nobody computes what it has


def hop(name: str, start: int, end: int) -> Hop:
    return Hop(Contact(name), Span(start, end), 512, ("float32", None), 0.1, 0.01, 0.001, introduction(name))


def test_gaps_join_lost_neighbours() -> None:
    hops = [hop("a", 0, 2), hop("b", 2, 3), hop("c", 3, 7), hop("d", 7, 8)]
    assert gaps(hops, set()) == []
    assert gaps(hops, {"b"}) == [Gap(1, 2, Span(2, 3))]
    assert gaps(hops, {"b", "c"}) == [Gap(1, 3, Span(2, 7))]
    assert gaps(hops, {"a", "c"}) == [Gap(0, 1, Span(0, 2)), Gap(2, 3, Span(3, 7))]
    assert gaps(hops, {"a", "b", "c", "d"}) == [Gap(0, 4, Span(0, 8))]


def test_the_first_hop_that_has_not_passed_a_round_on_is_stuck() -> None:
    done, behind, busy = report(taken=8), report(taken=7), report(taken=8, waiting=1)
    assert stuck_at([done, behind, behind], 7) == 1
    assert stuck_at([done, busy, behind], 7) == 1
    assert stuck_at([behind, done, done], 7) == 0
    assert stuck_at([done, done, done], 7) == 2
