"""What time it is elsewhere: said where it matters, and not by the word of one."""

from __future__ import annotations

import pytest

from swarm.clocks import Clocks


def clocks(*ahead: float) -> Clocks:
    found = Clocks(lambda: 0.0)
    for i, seconds in enumerate(ahead):
        found.note(f"node {i}", seconds)
    return found


@pytest.mark.parametrize(
    ("ahead", "trouble"),
    [
        ([], ""),
        ([59.0], ""),
        ([0.0, 700.0], ""),
        ([0.0, 0.1, 1e9], ""),
        ([-700.0, 0.0, 700.0], ""),
        ([90.0, 90.0, 0.0, 0.0], ""),
        ([90.4], "this machine's clock and that of another node differ by 90 s: one of them is wrong"),
        ([-90.0, -95.0], "this machine's clock and those of 2 other nodes differ by 90 s: one of them is wrong"),
        ([90.0, 91.0, 0.0], "this machine's clock is 90 s ahead of those of 3 other nodes: set it"),
        ([-700.0, -701.0, -702.0, 5e9], "this machine's clock is 700 s behind those of 4 other nodes: set it"),
    ],
)
def test_clock_is_called_wrong_by_the_median_of_several(ahead: list[float], trouble: str) -> None:
    assert clocks(*ahead).trouble == trouble


def test_each_node_has_one_voice_and_the_last_word_counts() -> None:
    found = clocks(0.0, 0.0)
    for i in range(100):
        found.note("liar", 1000.0 + i)
    assert found.trouble == ""
    found.note("node 0", 80.0)
    found.note("node 1", 80.0)
    assert found.ahead == 80.0


def test_voices_fade_and_are_as_many_as_there_is_room_for() -> None:
    now = 0.0
    found = Clocks(lambda: now)
    for i in range(3):
        found.note(f"old {i}", 500.0)
    assert found.trouble
    now = 601.0
    assert found.trouble == ""
    for i in range(1000):
        found.note(f"node {i}", 500.0)
    assert len(found._voices) <= 64


def test_trouble_is_news_once_until_it_is_over() -> None:
    found = clocks(90.0)
    assert [bool(found.news()), bool(found.news())] == [True, False]
    found.note("node 0", 0.0)
    assert not found.news()
    found.note("node 0", 90.0)
    assert found.news()
