"""The benchmark of evidence: from generations to a cell, what the closed form makes of it, tables and plot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import bench, evidence, plots, report
from benchmarks.bar import check
from benchmarks.evidence import Cell, Pilot, Step
from swarm.speculation.closed_form import expected_tokens


def generation(drafted: int, accepted: list[int], seconds: float, first: float = 9.0) -> dict[str, Any]:
    """Verdicts on so many drafts each; the first, with the prompt, takes longer."""
    times = [first, *[seconds] * (len(accepted) - 1)]
    return {
        "verdicts": [
            {"drafted": drafted, "accepted": count, "seconds": time}
            for count, time in zip(accepted, times, strict=True)
        ],
        "rounds": len(accepted),
        "drafted": drafted * len(accepted),
        "evidence_bytes": 50 * drafted * len(accepted),
        "token_ids": [0] * (sum(accepted) + len(accepted)),
        "seconds": sum(times),
    }


PLAIN = [generation(0, [0] * 20, 0.02)]
TRIED = {0: PLAIN, 1: [generation(1, [1, 0, 1], 0.024)], 8: [generation(8, [8, 1, 0, 0, 2, 0], 0.038)] * 2}
PILOT = Pilot(0.5, 0.1, 1.05)
LONG = Pilot(0.8, 0.13, 1.05)


def cell(k: int = 32, uplink: float = 5.0) -> Cell:
    """Of drafts of which the half stand, and cost a tenth of a trip."""
    made = {0: PLAIN}
    for window in range(1, 6):
        accepted = [min(count, window) for count in [0] * 8 + [1] * 4 + [2] * 2 + [3, 5]]
        made[window] = [generation(window, accepted, 0.02 * (1 + 0.1 * window))]
    return evidence.cell(k, uplink, PILOT, made)


def test_a_pilot_tells_acceptance_and_the_line_through_its_two_windows() -> None:
    pilot = evidence.pilot_of(TRIED)
    assert pilot.acceptance == pytest.approx(11 / (8 + 2 + 1 + 1 + 3 + 1))
    assert pilot.fixed == pytest.approx(0.022 / 0.02)
    assert pilot.draft_cost == pytest.approx(0.002 / 0.022)


def test_a_step_expects_what_the_verdicts_of_all_longer_windows_say() -> None:
    one = cell()
    assert [step.window for step in one.ladder] == [0, 1, 2, 3, 4, 5]
    assert [step.tokens for step in one.ladder[:4]] == pytest.approx([1, 1 + 1 / 2, 1 + 1 / 2 + 1 / 4, 1.875])
    assert one.ladder[2].seconds == pytest.approx(0.024)
    assert one.ladder[2].error == pytest.approx(0)
    assert one.evidence_bytes == 50
    assert one.times(one.ladder[2]) == pytest.approx(1.75 / 1.2)
    assert one.best.window in (2, 3)


def test_verdicts_that_do_not_reach_so_far_say_nothing() -> None:
    verdicts = [(1, 1), (1, 0), (3, 3), (3, 1), (3, 0)]
    assert evidence.share_that_stands(verdicts, 1) == pytest.approx(3 / 5)
    assert evidence.share_that_stands(verdicts, 2) == pytest.approx(1 / 3)


def test_the_closed_form_drafts_nothing_where_drafts_do_not_pay() -> None:
    assert Pilot(0.6, 0.1, 1.0).window == 3
    assert Pilot(0.6, 0.1, 1.6).window == 3
    assert Pilot(0.6, 0.1, 1.7).window == 0
    assert Pilot(0.6, 0.59, 1.0).window == 1
    assert Pilot(0.6, 0.61, 1.0).window == 0
    assert Pilot(0.6, 8.0, 1.0).window == 0
    assert Pilot(1.0, -0.01, 1.0).window > 20
    assert evidence.ladder(0) == (0, 1, 2, 3)
    assert evidence.ladder(3) == (0, 1, 2, 3, 4, 5, 6)


def test_the_best_of_a_ladder_is_the_closed_forms_if_all_is_as_it_says() -> None:
    for pilot in (Pilot(0.5, 0.1, 1.1), Pilot(0.7, 0.05, 1.05), Pilot(0.6, 0.3, 1.0), Pilot(0.4, 0.7, 1.0)):
        ladder = tuple(
            Step(
                window,
                expected_tokens(pilot.acceptance, window),
                pilot.fixed * (1 + pilot.draft_cost * window) if window else 1.0,
                0.0,
                0.0,
            )
            for window in evidence.ladder(pilot.window)
        )
        one = replace(cell(), pilot=pilot, ladder=ladder)
        assert one.best.window == pilot.window
        assert one.lag == 0


def test_cells_of_other_files_are_kept_and_bars_are_of_all(tmp_path: Path) -> None:
    older = [cell(32, 5.0), cell(3, 50.0)]
    read = evidence.from_record(json.loads(json.dumps(evidence.as_record(older))))
    assert read == older
    far = replace(cell(32, 5.0), pilot=LONG)
    merged = evidence.merged(read, [far, cell(3, 0.5), cell(evidence.FULL, 0.5)])
    assert [(one.k, one.uplink_mbit) for one in merged] == [(3, 0.5), (3, 50.0), (32, 5.0), (evidence.FULL, 0.5)]
    found = evidence.figures(merged)
    assert found == {evidence.WITHIN: 75.0}
    assert check((evidence.WITHIN,), found)[0].is_missed
    assert merged[2].lag > 0
    assert evidence.figures([]) == {}
    console = Console(width=200, record=True)
    console.print(report.evidence_table(merged), report.evidence_line(far))
    assert "full" in console.export_text()
    assert plots.draw_evidence(merged, tmp_path).stat().st_size > 10_000


def test_results_of_several_runs_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"one": [cell(3, 5.0), cell(3, 50.0)], "other": [replace(cell(3, 50.0), pilot=LONG), cell(32, 5.0)]}
    for name, cells in parts.items():
        (tmp_path / name).write_text(json.dumps({"evidence": evidence.as_record(cells)}))
    files, out = [str(tmp_path / name) for name in parts], tmp_path / "all.json"
    options = ["--parts", "evidence", "--evidence-k", "--cells-of", *files, "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["bench", *options])
    assert bench.main() == 1
    record = json.loads(out.read_text())
    assert evidence.from_record(record["evidence"]) == [*parts["one"][:1], *parts["other"]]
    assert record["bars"][0]["measured"] == pytest.approx(100 * 2 / 3)
    assert (tmp_path / "evidence.png").exists()
