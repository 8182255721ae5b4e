"""What others do is told in a line a minute, counted, and shown to the owner."""

from __future__ import annotations

import logging

import pytest

from swarm.complaints import _MOST_LINES, _PAUSE_SECONDS, _RECENT, Complaints
from swarm.metrics import COMPLAINTS
from swarm.wire import Complaint


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(
        logging.getLogger("specswarm"), "warning", lambda text, *rest: found.append(text % rest if rest else text)
    )
    return found


def test_one_node_is_spoken_of_once_a_minute_for_each_kind(lines: list[str]) -> None:
    clock = Clock()
    complaints = Complaints(clock)
    for _ in range(1000):
        complaints.about("nonsense", "eve", "nonsense")
    complaints.about("streams", "eve", "too many")
    complaints.about("nonsense", "mallory", "more")
    assert lines == ["peer eve: nonsense", "peer eve: too many", "peer mallory: more"]
    clock.now = _PAUSE_SECONDS
    complaints.about("nonsense", "eve", "again")
    assert lines[3:] == ["peer eve: again (and 999 times before)"]


def test_a_crowd_does_not_fill_the_log_and_all_of_it_counts(lines: list[str]) -> None:
    clock = Clock()
    complaints = Complaints(clock)
    counter = COMPLAINTS.labels("crowd")._value
    before = counter.get()
    for number in range(1000):
        complaints.about("crowd", f"node {number}", "nonsense")
    assert len(lines) == _MOST_LINES + 1
    assert "many nodes do this (crowd)" in lines[-1]
    assert counter.get() == before + 1000
    complaints.about("other", "node 1", "nonsense")
    assert lines[-1] == "peer node 1: nonsense"
    clock.now = _PAUSE_SECONDS
    complaints.about("crowd", "node 1", "nonsense")
    assert lines[-1].startswith("peer node 1: nonsense")


def test_the_owner_is_told_what_was_of_late_the_last_ones_first(lines: list[str]) -> None:
    clock = Clock()
    complaints = Complaints(clock)
    complaints.about("nonsense", "eve", "once")
    complaints.about("streams", "mallory", "x" * 1000)
    clock.now = 60.0
    complaints.about("nonsense", "eve", "twice")
    last, before = complaints.recent
    assert last == Complaint("eve", "nonsense", "twice", 2, 0.0)
    assert (before.peer_id, before.times, before.seconds, len(before.text)) == ("mallory", 1, 60.0, 200)
    clock.now = 61.0 + _RECENT
    assert complaints.recent == []
    assert lines
