"""The parameters of a scenario that fit a lab run: of stages, of drafting, of the transport, and of shared cores.

Everything is a sum of so much for each of a few things, so least squares, with nothing below 0, find it:

    compute of a round = hops * hop_ms + layers * (start_ms + token_ms * tokens + several_ms, for more tokens than one)
    rest of its trip - delays of its links =
        2 * (messages * message_us + bytes * kilobyte_us / 1000) + 2 * delay * bytes / window_bytes
    seconds of a draft = start_ms / (drafts of a forward pass) + node_ms

What it costs to find all cores taken shows only in crowds: it is what makes simulated ones, with the same texts, as
fast as real ones, in the geometric mean.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from scipy.optimize import brentq, nnls

from simulator.experiments import run as simulate
from simulator.peer import HEADER, TOKEN
from simulator.scenario import Scenario
from swarm.errors import UsageError
from swarm.speculation import trace
from swarm.speculation.trace import Trace
from swarm.user_files import read_bytes

_LEAST = 1e-9
_MOST, _EXACTLY = 10.0, 0.005  # milliseconds
_LONG = 1e6  # seconds


class Trip(msgspec.Struct, frozen=True, array_like=True):
    """One round, alone on its way."""

    tokens: int
    """The text's newest and its drafts."""
    seconds: float
    """Until its verdict came."""
    compute: float
    """Of its stages, together."""


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Generations of one setting at one place, one round at a time."""

    hops: int
    layers: int
    row_bytes: int
    """Of one token's hidden state."""
    delay_ms: float
    """Of each link, one way."""
    at_once: int
    """Drafts that a forward pass of the drafter works out: 1 for chains."""
    draft_seconds: float
    """For one more draft, on the average; 0: none were made."""
    trips: tuple[Trip, ...]


class Crowd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Clients that generate all at once, over one chain, all programs on one machine, one round at a time."""

    cores: int
    clients: int
    requests: int
    """Of each client, one after the other."""
    hops: int
    layers: int
    row_bytes: int
    delay_ms: float
    window: int
    tree: bool
    tokens_per_second: float
    """Of a generation, from its start on."""


class LabRun(msgspec.Struct, frozen=True):
    """What a calibration takes of a file that may say more."""

    samples: tuple[Sample, ...]
    crowds: tuple[Crowd, ...] = ()
    texts: tuple[Trace, ...] = ()
    """What the crowds generated."""


Tables = dict[str, dict[str, float]]
"""By table of a scenario, its keys."""


def read(file: Path) -> LabRun:
    """A lab run. Raises UsageError."""
    try:
        return msgspec.json.decode(read_bytes(file), type=LabRun)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{file}: {getattr(error, 'strerror', None) or error}") from None


def fit(run: LabRun) -> Tables:
    """The tables that fit. Raises UsageError if the run does not tell."""
    tables = fit_alone(run.samples)
    if run.crowds:
        tables["cores"] = {"switch_ms": _rounded(_switch(tables, run))}
    return tables


def fit_alone(samples: Sequence[Sample]) -> Tables:
    """Of what is no crowd. Raises UsageError if the samples do not tell."""
    if len({(sample.hops, trip.tokens) for sample in samples for trip in sample.trips}) < 3:
        raise UsageError("too few kinds of rounds: calibrate on chains of two lengths, with drafts and without")
    hop, start, token, several = _solve(
        [
            (
                (sample.hops, sample.layers, sample.layers * trip.tokens, sample.layers * (trip.tokens > 1)),
                trip.compute,
            )
            for sample in samples
            for trip in sample.trips
        ]
    )
    message, byte, per_window = _solve(
        [
            ((2 * (sample.hops + 1), 2 * sent, 2 * sample.delay_ms * 1e-3 * sent), _rest(sample, trip))
            for sample in samples
            for trip in sample.trips
            for sent in [_bytes(sample, trip)]
        ]
    )
    draft_start, node = _solve(
        [((1 / sample.at_once, 1.0), sample.draft_seconds) for sample in samples if sample.draft_seconds]
    )
    found = {
        "stage": {
            "hop_ms": 1e3 * hop,
            "start_ms": 1e3 * start,
            "several_ms": 1e3 * several,
            "token_ms": 1e3 * token,
        },
        "draft": {"start_ms": 1e3 * draft_start, "node_ms": 1e3 * node},
        "transport": {"message_us": 1e6 * message, "kilobyte_us": 1e9 * byte},
    }
    if per_window > _LEAST:
        found["transport"]["window_bytes"] = 1 / per_window
    return {table: {key: _rounded(value) for key, value in keys.items()} for table, keys in found.items()}


def as_toml(tables: Tables) -> str:
    """To be put into a scenario."""
    return "\n\n".join(
        "\n".join([f"[{table}]", *(f"{key} = {value:g}" for key, value in keys.items())])
        for table, keys in tables.items()
    )


def _solve(equations: Sequence[tuple[tuple[float, ...], float]]) -> tuple[float, ...]:
    """What each thing takes, so that the sums come nearest. Raises UsageError if there are none."""
    if not equations:
        raise UsageError("nothing was drafted: calibrate with a draft model, by chains and by trees")
    matrix = np.array([row for row, _ in equations], dtype=float)
    scale = np.maximum(np.abs(matrix).max(axis=0), _LEAST)
    found, _ = nnls(matrix / scale, np.array([value for _, value in equations]))
    return tuple(float(value) for value in found / scale)


def _switch(tables: Tables, run: LabRun) -> float:
    """Milliseconds, with which simulated crowds are as fast as the real ones; 0 if they are slower anyhow."""

    def too_fast(switch: float) -> float:
        speeds = (_simulated(tables, crowd, run.texts, switch) / crowd.tokens_per_second for crowd in run.crowds)
        return sum(map(math.log, speeds))

    if too_fast(0.0) <= 0:
        return 0.0
    if too_fast(_MOST) >= 0:
        return _MOST
    return float(brentq(too_fast, 0.0, _MOST, xtol=_EXACTLY))


def _simulated(tables: Tables, crowd: Crowd, texts: Sequence[Trace], switch: float) -> float:
    """Tokens a second of a generation in a crowd."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.jsonl"
        trace.write(file, texts)
        scenario = Scenario.model_validate(
            {
                **tables,
                "seconds": _LONG,
                "model": {"layers": crowd.layers, "row_bytes": crowd.row_bytes},
                "machines": {"one": crowd.cores},
                "peers": [{"count": crowd.hops, "layers": "even", "machine": "one"}],
                "clients": [
                    {
                        "count": crowd.clients,
                        "machine": "one",
                        "window": crowd.window,
                        "tree": crowd.tree,
                        "in_flight": 1,
                        "draft_at": "client",
                        "prompt_tokens": "recorded",
                        "new_tokens": "recorded",
                        "text": str(file),
                        "arrivals": {"requests": crowd.requests},
                    }
                ],
                "link": {"delay_ms": crowd.delay_ms},
                "cores": {"switch_ms": switch},
            }
        )
        figures = simulate(scenario, 1)
    return figures.tokens / figures.request_seconds


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _bytes(sample: Sample, trip: Trip) -> float:
    """That a round sends over all links but the last one, which brings a verdict."""
    ids = HEADER + TOKEN * trip.tokens
    return sample.hops * ids + (sample.hops - 1) * sample.row_bytes * trip.tokens


def _rest(sample: Sample, trip: Trip) -> float:
    return trip.seconds - trip.compute - (sample.hops + 1) * sample.delay_ms * 1e-3
