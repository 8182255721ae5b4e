"""The benchmark of the rule `semantic`: what it asks, and what it makes of the answers."""

from __future__ import annotations

from benchmarks.semantic import LOSS, SPEED, Table, figures, split
from swarm.speculation.semantic import Leniency
from swarm.speculation.thresholds import Trial


def test_thresholds_are_not_chosen_on_what_tests_them() -> None:
    asked, known = split(200, 50)
    assert (len(asked), len(known)) == (200, 50)
    assert not {problem.prompt for problem in asked} & {problem.prompt for problem in known}


def test_bars_compare_with_match() -> None:
    match = Trial(None, asked=200, right=190, tokens=1000, verdicts=100, seconds=100.0)
    semantic = Trial(Leniency(), asked=200, right=189, tokens=990, verdicts=80, seconds=90.0)
    table = Table(1.0, match, (semantic,))
    assert figures(table) == {LOSS: 0.5, SPEED: 1.1}
    assert [trial["leniency"] is None for trial in table.as_dict()["trials"]] == [True, False]
