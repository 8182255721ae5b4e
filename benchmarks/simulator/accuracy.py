"""How near the simulator comes to the lab: the same texts, on the same swarms, measured and predicted.

Stages, drafting and transport are fitted to other runs of the same lab (`CALIBRATION`); the predictions know nothing
else of the machine but that all programs share its cores.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec

from benchmarks.bar import Bar
from benchmarks.deployment import Client, deployed, start_client
from benchmarks.lab import Lab
from simulator.experiments import run as simulate
from simulator.fit import Crowd, LabRun, Sample, Tables, Trip, fit
from simulator.scenario import Scenario
from swarm.drafting.growth import AT_ONCE
from swarm.speculation import trace

LAYERS, ROW_BYTES = 8, 1024  # of the embedded target
TEMPERATURE, SEED = 0.8, 7

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"window": 0},
    "chain of 4": {"window": 4, "tree": False, "in_flight": 1},
    "tree of 16": {"window": 16, "in_flight": 1},
    "auto, one in flight": {"in_flight": 1},
    "auto": {},
}
CALIBRATION_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"window": 0},
    "chain of 8": {"window": 8, "tree": False, "in_flight": 1},
    "tree of 32": {"window": 32, "in_flight": 1},
}

MEDIAN = Bar("tokens/s predicted against measured, off by, median of the cells", 10, "%")
WORST = Bar("tokens/s predicted against measured, off by, worst cell", 20, "%")
CELLS = Bar("cells that were not used for calibration", 24, "cells", is_floor=True)
ORDER = Bar("pairs of settings that differ by more than 10 %: predicted in the same order", 100, "%", is_floor=True)
BARS = (MEDIAN, WORST, CELLS, ORDER)

PASSES = 2
"""In which everything is measured, calibration and cells, one after the other: a machine is not always as fast."""
_CLOSE = 1.1  # times as fast, at which two settings are told apart

Result = Mapping[str, Any]
"""Of a generation, as a client tells it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cell is."""

    peers: int
    delay_ms: float
    """One way, between any two hosts."""
    clients: int


CALIBRATION = (Place(2, 0.0, 1), Place(8, 0.0, 1), Place(2, 25.0, 1), Place(8, 25.0, 1))
CROWDS = (Place(4, 0.0, 8), Place(4, 25.0, 8))
MEASURED = (
    *(Place(peers, delay, 1) for peers, delay in ((4, 10.0), (4, 50.0), (2, 10.0), (8, 10.0))),
    *(Place(peers, delay, 8) for peers, delay in ((4, 10.0), (4, 50.0))),
)
ASKED: Mapping[Place, Mapping[str, Mapping[str, Any]]] = {
    place: SETTINGS if place in MEASURED else CALIBRATION_SETTINGS
    for place in sorted((*CALIBRATION, *CROWDS, *MEASURED), key=lambda place: (place.clients, place.delay_ms))
}
"""The settings of each place; calibration and cells take turns."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting at one place."""

    place: Place
    setting: str
    measured: float
    """Tokens a second of a generation, from its start on."""
    predicted: float

    @property
    def off(self) -> float:
        """By which share the prediction is off."""
        return abs(self.predicted / self.measured - 1)


def run(
    texts: Sequence[str], tokens: int, folder: Path, told: Callable[[Place, str, float], None]
) -> tuple[LabRun, Tables, list[Cell]]:
    """What was calibrated by, the tables that fit it, and the cells; each speed is told as it is measured."""
    traces = folder / "texts.jsonl"
    made = _measure(texts, tokens, folder, traces, told)
    calibration = LabRun(
        tuple(_sample(*key, made[key]) for key in _keys(CALIBRATION)),
        tuple(_crowd(*key, made[key], len(texts)) for key in _keys(CROWDS)),
        tuple(trace.read(traces)),
    )
    tables = fit(calibration)
    cells = [
        Cell(place, name, _speed(made[place, name]), predict(tables, place, SETTINGS[name], traces, len(texts)))
        for place, name in _keys(MEASURED)
    ]
    return calibration, tables, cells


def _keys(places: Sequence[Place]) -> list[tuple[Place, str]]:
    """Each place with each of its settings, by name."""
    return [(place, name) for place in places for name in ASKED[place]]


def _measure(
    texts: Sequence[str], tokens: int, folder: Path, traces: Path, told: Callable[[Place, str, float], None]
) -> dict[tuple[Place, str], list[Result]]:
    """The generations of all passes; the texts are recorded once."""
    made = dict[tuple[Place, str], list[Result]]()
    for number in range(PASSES):
        for place, clients in _at([*ASKED], folder / f"{number}"):
            if not traces.exists():
                for text in texts:
                    _generate(clients[0], text, tokens, {"window": 0, "record": str(traces)})
            for name, setting in ASKED[place].items():
                results = _all_at_once(clients, texts, tokens, setting)
                made.setdefault((place, name), []).extend(results)
                told(place, name, _speed(results))
    return made


def predict(
    tables: Mapping[str, Mapping[str, float]], place: Place, setting: Mapping[str, Any], traces: Path, requests: int
) -> float:
    """Tokens a second of a generation, by the simulator: of so many of each client, over the recorded texts."""
    scenario = Scenario.model_validate(
        {
            "seconds": 1e6,
            "model": {"layers": LAYERS, "row_bytes": ROW_BYTES},
            "machines": {"lab": os.cpu_count()},
            "peers": [{"count": place.peers, "layers": "even", "machine": "lab"}],
            "clients": [
                {
                    "count": place.clients,
                    "machine": "lab",
                    "draft_at": "client",
                    "prompt_tokens": "recorded",
                    "new_tokens": "recorded",
                    "text": str(traces),
                    "arrivals": {"requests": requests},
                    **setting,
                }
            ],
            "link": {"delay_ms": place.delay_ms},
            **tables,
        }
    )
    found = simulate(scenario, SEED)
    return found.tokens / found.request_seconds


def figures(cells: Sequence[Cell]) -> dict[Bar, float]:
    """What the cells say of each bar."""
    off = [100 * cell.off for cell in cells]
    pairs = [
        (one, other)
        for one, other in itertools.permutations(cells, 2)
        if one.place == other.place and one.measured > _CLOSE * other.measured
    ]
    right = sum(one.predicted > other.predicted for one, other in pairs)
    return {
        MEDIAN: median(off),
        WORST: max(off),
        CELLS: len(cells),
        ORDER: 100 * right / max(len(pairs), 1),
    }


def _at(places: Sequence[Place], folder: Path) -> Iterator[tuple[Place, list[Client]]]:
    """The clients of each place, with its links; places of as many peers are on one swarm."""
    for peers in dict.fromkeys(place.peers for place in places):
        here = [place for place in places if place.peers == peers]
        with _swarm(peers, max(place.clients for place in here), folder / f"{peers}") as (lab, clients):
            for place in here:
                lab.set_delay(place.delay_ms)
                yield place, clients[: place.clients]


@contextmanager
def _swarm(peers: int, clients: int, folder: Path) -> Iterator[tuple[Lab, list[Client]]]:
    """A swarm on the lab, and clients on hosts of their own."""
    spans = [f"{LAYERS * i // peers}:{LAYERS * (i + 1) // peers}" for i in range(peers)]
    folder.mkdir(parents=True)
    with (
        Lab(hosts=1 + peers + clients) as lab,
        deployed(lab, "embedded", spans, folder) as (initial_peers, own),
        ExitStack() as stack,
    ):
        found = [own]
        for host in range(peers + 2, peers + 1 + clients):
            found.append(start_client(partial(lab.popen, host)))
            stack.callback(found[-1].close)
        for client in found:
            client.connect(
                model="embedded", initial_peers=initial_peers, draft="embedded-draft", draft_at="client", threads=1
            )
        yield lab, found


def _generate(client: Client, text: str, tokens: int, setting: Mapping[str, Any]) -> Result:
    return client.generate(text, temperature=TEMPERATURE, seed=SEED, max_new_tokens=tokens, **setting)


def _all_at_once(
    clients: Sequence[Client], texts: Sequence[str], tokens: int, setting: Mapping[str, Any]
) -> list[Result]:
    """Each client generates all texts, each beginning with another one, one after the other."""

    def work(number: int) -> list[Result]:
        first = number % len(texts)
        own = [*texts[first:], *texts[:first]]
        return [_generate(clients[number], text, tokens, setting) for text in own]

    with ThreadPoolExecutor(len(clients)) as pool:
        return [one for made in pool.map(work, range(len(clients))) for one in made]


def _sample(place: Place, name: str, results: Sequence[Result]) -> Sample:
    setting = CALIBRATION_SETTINGS[name]
    trips = tuple(
        Trip(1 + verdict["drafted"], seconds, compute)
        for one in results
        for verdict, seconds, compute in zip(
            one["verdicts"][1:], one["trip_seconds"][1:], one["compute_seconds"][1:], strict=True
        )
    )
    return Sample(
        hops=place.peers,
        layers=LAYERS,
        row_bytes=ROW_BYTES,
        delay_ms=place.delay_ms,
        at_once=AT_ONCE if setting.get("tree", True) else 1,
        draft_seconds=fmean(one["cost"]["per_draft"] for one in results) if setting["window"] else 0.0,
        trips=trips,
    )


def _crowd(place: Place, name: str, results: Sequence[Result], requests: int) -> Crowd:
    setting = CALIBRATION_SETTINGS[name]
    return Crowd(
        cores=os.cpu_count() or 1,
        clients=place.clients,
        requests=requests,
        hops=place.peers,
        layers=LAYERS,
        row_bytes=ROW_BYTES,
        delay_ms=place.delay_ms,
        window=setting["window"],
        tree=setting.get("tree", True),
        tokens_per_second=_speed(results),
    )


def _speed(results: Sequence[Result]) -> float:
    """Tokens a second of a generation."""
    return sum(len(one["token_ids"]) for one in results) / sum(float(one["seconds"]) for one in results)


def as_record(tables: Mapping[str, Mapping[str, float]], cells: Sequence[Cell]) -> dict[str, Any]:
    """For JSON."""
    return {"tables": tables, "cells": [msgspec.to_builtins(cell) for cell in cells]}
