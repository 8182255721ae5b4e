"""Nonsense of strangers does not fill the log."""

from __future__ import annotations

import logging

import pytest

from swarm.complaints import _MAX_NODES, _PAUSE_SECONDS, Complaints


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


def test_one_node_is_spoken_of_once_a_minute(lines: list[str]) -> None:
    clock = Clock()
    complaints = Complaints(clock)
    for _ in range(1000):
        complaints.about("eve", "nonsense")
    complaints.about("mallory", "more")
    assert lines == ["peer eve: nonsense", "peer mallory: more"]
    clock.now = _PAUSE_SECONDS
    complaints.about("eve", "again")
    assert lines[2:] == ["peer eve: again"]


def test_a_crowd_is_not_remembered_for_ever(lines: list[str]) -> None:
    complaints = Complaints(Clock())
    for number in range(3 * _MAX_NODES):
        complaints.about(str(number), "nonsense")
    assert len(complaints._next) == _MAX_NODES
