"""Who gives way when there is no room: whoever has most, or does not use what he has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from peer.room import IDLE, Holding, giving_way


def holding(name: str, client: str, size: int, unused: float = 0.0) -> Holding:
    return Holding(name.encode(), client, size, unused)


def all_known(_: str) -> bool:
    return False


def all_new(_: str) -> bool:
    return True


def test_whoever_has_most_gives_way_with_what_was_used_longest_ago() -> None:
    others = [holding("a", "greedy", 50, 3.0), holding("b", "greedy", 30, 9.0), holding("c", "modest", 20, 20.0)]
    for is_new in (all_known, all_new):
        assert giving_way(others, "newcomer", 25, 25, is_new) == [b"b"]
        assert giving_way(others, "newcomer", 40, 40, is_new) == [b"b", b"a"]


def test_who_would_have_most_gets_no_more() -> None:
    others = [holding("a", "one", 50, 5.0), holding("b", "other", 40)]
    for is_new in (all_known, all_new):
        assert giving_way(others, "one", 10, 10, is_new) is None
        assert giving_way(others, "third", 50, 10, is_new) is None
        assert giving_way(others, "third", 49, 10, is_new) == [b"a"]


def test_what_nobody_uses_gives_way_to_anybody() -> None:
    others = [holding("a", "one", 90), holding("b", "other", 5, IDLE), holding("c", "other", 5, 2 * IDLE)]
    assert giving_way(others, "one", 10, 5, all_known) == [b"c"]
    assert giving_way(others, "one", 10, 10, all_known) == [b"c", b"b"]
    assert giving_way(others, "one", 10, 11, all_known) is None


def test_a_crowd_of_newcomers_has_no_more_than_one_known_client() -> None:
    crowd = [holding(f"{i}", f"new {i}", 10, i) for i in range(8)]
    known = [holding("known", "known", 20, 50.0)]

    def is_new(client: str) -> bool:
        return client.startswith("new")

    assert giving_way(crowd + known, "known", 30, 10, is_new) == [b"7"]
    assert giving_way(crowd + known, "new 100", 9, 9, is_new) == [b"7"]
    assert giving_way(crowd + known, "new 100", 11, 11, is_new) is None


holdings = st.lists(
    st.builds(
        holding,
        st.text("abcdefgh", min_size=4, max_size=9),
        st.sampled_from("pqrs"),
        st.integers(0, 50),
        st.floats(0, 2 * IDLE),
    ),
    unique_by=lambda one: one.session,
)


@settings(max_examples=300, deadline=None)
@given(holdings, st.integers(1, 60), st.integers(0, 60), st.sampled_from([all_known, all_new]))
def test_as_much_is_given_as_is_lacking_and_only_by_who_has_more_or_does_not_use_it(
    others: list[Holding], own: int, lacking: int, is_new: Callable[[str], bool]
) -> None:
    chosen = giving_way(others, "p", own, lacking, is_new)
    if chosen is None:
        return
    left = {one.session: one for one in others}
    for name in chosen:
        assert lacking > 0
        has = Counter({"p": own})
        for one in left.values():
            has[one.client] += one.size
        gives = left.pop(name)
        assert gives.unused >= IDLE or has[gives.client] > has["p"]
        lacking -= gives.size
    assert lacking <= 0
