"""`specswarm simulate`: sweeps and seeds, on any number of processes, as a table or JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from simulator.experiments import combinations, sweep
from simulator.figures import Histogram, interval
from simulator.scenario import load
from specswarm import cli
from swarm.errors import UsageError

SCENARIOS = sorted(Path("configs/scenarios").glob("*.toml"))
SMALL = """
seconds = 300
[[peers]]
count = 4
layers = 2
[[clients]]
count = 2
text = 0.7
window = 4
arrivals = { kind = "poisson", per_hour = 600, requests = 2 }
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    return file


def run(*arguments: str) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["simulate", *arguments])
    return int(ended.value.code or 0)


def test_json_has_a_line_for_each_combination_with_all_its_seeds(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps = ["--sweep", "link.delay_ms=5,40", "--sweep", "clients.window=0,4"]
    assert run(str(small), *sweeps, "--seeds", "2", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    changes = [line["change"] for line in lines]
    assert changes == [{"link.delay_ms": d, "clients.window": w} for d in (5, 40) for w in (0, 4)]
    assert all(len(line["runs"]) == 2 for line in lines)
    per_token = [line["runs"][0]["per_token"]["mean"] for line in lines]
    assert per_token[1] < per_token[0] < per_token[2]
    assert {run["finished"] for line in lines for run in line["runs"]} == {4}


def test_the_table_names_what_was_changed(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(small), "--sweep", "clients.count=1,2", "--seeds", "2") == 0
    printed = capsys.readouterr().out
    assert "small: 2 seeds" in printed
    assert "count 2" in printed
    assert "requests finished" in printed
    assert "±" in printed


def test_any_number_of_processes_comes_to_the_same(small: Path) -> None:
    scenarios = [(change, load(small, change)) for change in combinations(["link.jitter_ms=0,3"])]
    one, two = ([asdict(point) for point in sweep(scenarios, 2, lambda: None, workers)] for workers in (1, 2))
    assert one == two
    assert one[1]["runs"][0] != one[1]["runs"][1]


def test_another_process_says_the_same_to_the_last_digit(small: Path) -> None:
    """Peers are lost and asked how far they got, several at a time: in an order that a program's own chance has no part
    in."""
    churn = "[churn]\ncrash_per_hour = 60\nhang_per_hour = 60\nleave_per_hour = 60\nreturn_seconds = 1\n"
    text = SMALL.replace("count = 4", "count = 16").replace("count = 2", "count = 10")
    small.write_text(text.replace("requests = 2", "requests = 20") + churn + "[link]\njitter_ms = 20\n")
    argv = [sys.executable, "-m", "specswarm", "simulate", str(small), "--seeds", "1", "--json"]
    told = {
        subprocess.run(
            argv, env={**os.environ, "PYTHONHASHSEED": str(seed)}, check=True, capture_output=True
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(told) == 1
    assert json.loads(told.pop())["runs"][0]["reroutes"] > 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--sweep", "window"], "give a key of the scenario and its values"),
        (["--sweep", "clients.window=many"], "clients.0.window: .*neither auto"),
        (["--sweep", "clients.7.window=1"], "there is no place for clients.7.window"),
        (["--seeds", "0"], "greater than or equal to 1"),
    ],
    ids=["no values", "nonsense", "no such table", "no seeds"],
)
def test_what_cannot_be_is_told_in_a_line(
    arguments: list[str], complaint: str, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(small), *arguments) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(complaint, told), told


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / "none.toml")) == 2
    assert "none.toml: No such file" in capsys.readouterr().err


def test_a_sweep_is_drawn(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeps = ["--sweep", "link.delay_ms=5,40", "--sweep", "clients.window=0,4"]
    assert run(str(small), *sweeps, "--seeds", "1", "--plot", str(tmp_path / "plots")) == 0
    (picture,) = (tmp_path / "plots").iterdir()
    assert picture.name == "small-delay_ms-window.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in " ".join(capsys.readouterr().err.split())
    assert run(str(small), "--plot", str(tmp_path)) == 2
    assert "--plot draws over the values of a --sweep" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_shipped_scenarios_run(file: Path) -> None:
    (point,) = sweep([({}, load(file, {"seconds": 40}))], 1, lambda: None)
    assert point.runs[0].tokens > 0


def test_a_sweep_without_values_is_one_combination() -> None:
    assert combinations([]) == [{}]
    assert combinations(["a.b=1,x,true,0.5"]) == [{"a.b": 1}, {"a.b": "x"}, {"a.b": True}, {"a.b": 0.5}]
    with pytest.raises(UsageError, match="--sweep"):
        combinations(["=3"])


def test_histograms_tell_ranks_within_half_a_per_cent() -> None:
    histogram = Histogram()
    for i in range(1, 1001):
        histogram.add(i / 100)
    spread = histogram.spread
    assert spread.mean == pytest.approx(5.005)
    assert (spread.p50, spread.p95, spread.p99) == pytest.approx((5.0, 9.5, 9.9), rel=0.005)
    assert Histogram().spread.p99 == 0


def test_intervals_are_those_of_student() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert interval([5.0]) == (5.0, 0.0)
