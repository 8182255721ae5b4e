"""The benchmark's grid: from generations to cells, from cells to bars, tables and plots."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import grid, idle, plots, report, windows
from benchmarks.bar import check
from benchmarks.grid import SETTINGS, Cell, Place
from benchmarks.traced import traced

PLACE = Place(4, 25.0, None, 0.0)


def generation(tokens: int, seconds: float, verdicts: int) -> dict[str, Any]:
    return {
        "token_ids": list(range(tokens)),
        "seconds": seconds,
        "rounds": verdicts,
        "drafted": 3 * verdicts,
        "trip_seconds": [9.0, *[0.1] * verdicts],
        "compute_seconds": [9.0, *[0.02] * verdicts],
    }


def cells(place: Place, **speeds: float) -> list[Cell]:
    """With these times plain decoding; those that are not named have none."""
    plain = [generation(20, 2.0, 20)]
    one = grid.cell(place, "plain", plain, plain, 1000)
    given = {name.replace("_", " "): speed for name, speed in speeds.items()}
    return [replace(one, setting=name, tokens_per_second=10 * given.get(name, 1.0)) for name in SETTINGS]


def test_a_cell_has_the_figures_of_all_its_generations() -> None:
    results = [generation(20, 2.0, 5), generation(10, 1.0, 5)]
    plain = [generation(20, 2.0, 20), generation(11, 1.0, 11)]
    one = grid.cell(PLACE, "auto", results, plain, 600)
    assert (one.tokens_per_second, one.per_verdict, one.drafted) == (10.0, 3.0, 3.0)
    assert (one.trip_ms, one.compute_ms) == (pytest.approx(100.0), pytest.approx(20.0))
    assert (one.bytes_per_token, one.exact, one.repeated) == (20.0, 0.5, 0.0)


def test_bars_are_those_of_their_places_and_of_the_worst() -> None:
    far, sampled, slow = (Place(4, 100, None, 0), Place(4, 25, None, 0.8), Place(8, 0, 50.0, 0))
    found = grid.figures(
        [
            *cells(PLACE, auto=4.0, chain_of_8=3.0, tree_of_32=3.5),
            *cells(far, auto=5.0),
            *cells(sampled, auto=2.9),
            *cells(slow, auto=0.9),
        ]
    )
    assert {bar.name: round(figure, 3) for bar, figure in found.items()} == {
        grid.SPEED.name: 4.0,
        grid.SPEED_CHAINS.name: 1.333,
        grid.SPEED_FAR.name: 5.0,
        grid.SPEED_SAMPLED.name: 2.9,
        grid.WORST_PLAIN.name: 0.9,
        grid.WORST_FIXED.name: 0.9,
        grid.EXACT.name: 100.0,
    }
    missed = [outcome.bar for outcome in check(grid.BARS, found) if outcome.is_missed]
    assert missed == [grid.WORST_PLAIN, grid.WORST_FIXED]


def test_what_was_not_measured_is_not_judged() -> None:
    found = grid.figures(cells(Place(2, 10, None, 0), auto=1.2))
    assert found.keys() == {grid.WORST_PLAIN, grid.WORST_FIXED, grid.EXACT}


def test_tables_and_plots_have_every_place(tmp_path: Path) -> None:
    measured = [
        one
        for peers in (2, 4)
        for delay in (0.0, 25.0)
        for rate in (None, 50.0)
        for one in cells(Place(peers, delay, rate, 0.8), auto=2.0)
    ]
    console = Console(width=200, record=True)
    console.print(*report.grid_tables(measured), sep="\n")
    text = console.export_text()
    assert text.count("25 ms, 50 Mbit/s") == 2
    assert "2 peers, T 0.8" in text
    files = plots.draw(measured, tmp_path)
    assert [file.name for file in files] == ["speed-2-peers-T0.8.png", "speed-4-peers-T0.8.png"]
    assert all(file.stat().st_size > 10_000 for file in files)


def cells_of_windows(place: Place, **speeds: float) -> list[Cell]:
    one = cells(place)[0]
    return [
        replace(one, setting=name, tokens_per_second=10 * speeds.get(name, 1.0), drafted=4.5)
        for name in windows.SETTINGS
    ]


def test_the_model_of_cost_is_measured_against_the_network_over_all_places() -> None:
    far = Place(4, 100.0, None, 0.0)
    measured = [*cells_of_windows(PLACE, awc=1.0, auto=2.0), *cells_of_windows(far, awc=1.6, auto=1.0)]
    assert windows.figures(measured) == {windows.COST: pytest.approx((2.0 / 1.6) ** 0.5), windows.SAME: 100.0}
    console = Console(width=200, record=True)
    console.print(report.of_windows(measured))
    assert "2.00 x, 4.5" in (text := console.export_text())
    assert "1.414 x" in text
    worse = windows.figures(cells_of_windows(PLACE, awc=1.1))
    assert [outcome.bar for outcome in check(windows.BARS, worse) if outcome.is_missed] == [windows.COST]


def test_places_are_added_to_those_of_a_record_and_take_the_place_of_their_own(tmp_path: Path) -> None:
    far, near = (cells_of_windows(Place(4, delay, None, 0.0), auto=1.5) for delay in (100.0, 0.0))
    record = tmp_path / "windows.json"
    assert windows.added(near, record) == near
    record.write_text(json.dumps({"windows": [asdict(one) for one in (*far, *cells_of_windows(near[0].place))]}))
    assert windows.added(near, record) == [*far, *near]


def test_idle_is_the_time_in_no_busy_interval() -> None:
    busy = [(1.0, 3.0), (2.0, 4.0), (6.0, 7.0), (4.0, 4.5)]
    assert idle.union(busy) == [(1.0, 4.5), (6.0, 7.0)]
    assert idle.idle_share(busy, [(0.0, 2.0), (4.0, 8.0)]) == pytest.approx(1 - 2.5 / 6.0)
    assert idle.idle_share([], [(0.0, 2.0)]) == 1.0


def test_a_traced_program_writes_down_when_it_computes(tmp_path: Path) -> None:
    with (tmp_path / "trace").open("w") as file:
        assert traced(lambda x: x + 1, file)(2) == 3
    start, end = map(float, (tmp_path / "trace").read_text().split())
    assert start <= end
