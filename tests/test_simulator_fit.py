"""A scenario fitted to a lab run: what was put in comes out again."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import msgspec
import pytest

from simulator.fit import Crowd, LabRun, Sample, Trip, _simulated, as_toml, fit, fit_alone
from simulator.scenario import Scenario
from simulator.texts import SHIPPED
from specswarm import cli
from swarm.errors import UsageError
from swarm.speculation import trace

LAYERS, ROW_BYTES = 8, 1000
HOP, START, SEVERAL, TOKEN = 0.4e-3, 0.2e-3, 0.1e-3, 0.05e-3
MESSAGE, BYTE, WINDOW = 150e-6, 20e-9, 400_000
PASS, NODE = 2e-3, 0.3e-3


def sample(hops: int, delay_ms: float, drafts: tuple[int, ...], at_once: int = 1) -> Sample:
    trips = []
    for count in drafts:
        tokens = 1 + count
        compute = hops * HOP + LAYERS * (START + SEVERAL * (tokens > 1) + TOKEN * tokens)
        size = hops * (100 + 4 * tokens) + (hops - 1) * ROW_BYTES * tokens
        links = (hops + 1) * (delay_ms * 1e-3 + 2 * MESSAGE) + 2 * size * (BYTE + delay_ms * 1e-3 / WINDOW)
        trips.append(Trip(tokens, compute + links, compute))
    draft = PASS / at_once + NODE if any(drafts) else 0.0
    return Sample(hops, LAYERS, ROW_BYTES, delay_ms, at_once, draft, tuple(trips))


RUN = (
    *(sample(hops, delay, (0, 0)) for hops in (2, 8) for delay in (0.0, 25.0)),
    *(sample(hops, delay, (8, 5)) for hops in (2, 8) for delay in (0.0, 25.0)),
    *(sample(hops, delay, (32, 20), at_once=8) for hops in (2, 8) for delay in (0.0, 25.0)),
)


def test_the_parameters_are_found_again() -> None:
    tables = fit_alone(RUN)
    stage = {"hop_ms": 0.4, "start_ms": 0.2, "several_ms": 0.1, "token_ms": 0.05}
    assert tables["stage"] == pytest.approx(stage, rel=0.01)
    assert tables["draft"] == pytest.approx({"start_ms": 2, "node_ms": 0.3}, rel=0.01)
    transport = {"message_us": 150, "kilobyte_us": 20, "window_bytes": WINDOW}
    assert tables["transport"] == pytest.approx(transport, rel=0.01)


def test_they_are_parts_of_a_scenario() -> None:
    scenario = {"peers": [{"layers": 8}], "clients": [{}], **tomllib.loads(as_toml(fit_alone(RUN)))}
    assert Scenario.model_validate(scenario).stage.hop_ms == pytest.approx(0.4, rel=0.01)


def test_a_transport_without_a_window_has_none() -> None:
    near = [one for one in RUN if not one.delay_ms]
    assert set(fit_alone(near)["transport"]) == {"message_us", "kilobyte_us"}


TEXTS = tuple(trace.read(SHIPPED / "code-T0.8.jsonl.gz")[:2])


def crowd(tokens_per_second: float) -> Crowd:
    return Crowd(2, 8, 1, 2, LAYERS, ROW_BYTES, 0.0, 4, False, tokens_per_second)


def test_crowds_tell_what_it_costs_to_find_all_cores_taken() -> None:
    found = [
        fit(LabRun(RUN, tuple(map(crowd, speeds)), TEXTS))["cores"]["switch_ms"]
        for speeds in ((10.0,), (20.0, 5.0), (15.0,), (1e6,))
    ]
    assert found[0] > found[2] > found[3] == 0
    assert found[1] == pytest.approx(found[0], abs=0.01)
    assert _simulated(fit_alone(RUN), crowd(10.0), TEXTS, found[0]) == pytest.approx(10.0, rel=0.02)


def test_a_run_that_does_not_tell_is_refused() -> None:
    with pytest.raises(UsageError, match="too few kinds of rounds"):
        fit_alone(RUN[:1])
    with pytest.raises(UsageError, match="nothing was drafted"):
        fit_alone([sample(hops, 0.0, (0,)) for hops in (1, 2, 4)])


def test_the_command_prints_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(msgspec.json.encode(LabRun(RUN, (crowd(10.0),), TEXTS)))
    with pytest.raises(SystemExit) as ended:
        cli.main(["simulate", "calibrate", str(file)])
    assert ended.value.code == 0
    assert tomllib.loads(capsys.readouterr().out)["stage"]["token_ms"] == pytest.approx(0.05, rel=0.01)
    with pytest.raises(SystemExit):
        cli.main(["simulate", "calibrate", str(file), "--json"])
    tables = json.loads(capsys.readouterr().out)
    assert tables["draft"]["node_ms"] == pytest.approx(0.3, rel=0.01)
    assert tables["cores"]["switch_ms"] > 0


@pytest.mark.parametrize("text", ["", "{}", '{"samples": [{"hops": "many"}]}'])
def test_a_file_that_is_none_of_ours_is_named(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(SystemExit) as ended:
        cli.main(["simulate", "calibrate", str(file)])
    assert ended.value.code == 2
    assert "run.json" in capsys.readouterr().err
