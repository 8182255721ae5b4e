"""The parameters of a scenario that fit a lab run: of stages, of drafting, and of the transport. Pure.

Everything is a sum of so much for each of a few things, so least squares, with nothing below 0, find it:

    compute of a round = hops * hop_ms + layers * (start_ms + token_ms * tokens)
    rest of its trip - delays of its links = messages * 2 * message_us + 2 * delay * bytes / window_bytes
    seconds of a draft = start_ms / (drafts of a forward pass) + node_ms

How much slower work is that had to wait for a core shows only where cores are short: it is what makes a simulated crowd
as fast as a real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from scipy.optimize import brentq, nnls

from simulator.experiments import run as simulate
from simulator.peer import HEADER, TOKEN
from simulator.scenario import Scenario
from swarm.errors import UsageError
from swarm.speculation.closed_form import expected_tokens

_LEAST = 1e-9
_MOST, _EXACTLY = 10.0, 0.005  # of a slowdown
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
    """Clients that generate all at once, over one chain, all programs on one machine: with chains of drafts, one round
    at a time."""

    cores: int
    clients: int
    requests: int
    """Of each client, one after the other."""
    prompt_tokens: int
    new_tokens: int
    hops: int
    layers: int
    row_bytes: int
    delay_ms: float
    window: int
    tokens_per_round: float
    tokens_per_second: float
    """Of a generation, from its start on."""

    @property
    def acceptance(self) -> float:
        """Of a draft, if it were the same for all."""
        if self.tokens_per_round <= 1:
            return 0.0
        if self.tokens_per_round >= self.window + 1:
            return 1.0
        return float(brentq(lambda a: expected_tokens(a, self.window) - self.tokens_per_round, 0.0, 1.0))


class LabRun(msgspec.Struct, frozen=True):
    """What a calibration takes of a file that may say more."""

    samples: tuple[Sample, ...]
    crowd: Crowd | None = None


Tables = dict[str, dict[str, float]]
"""By table of a scenario, its keys."""


def read(file: Path) -> LabRun:
    """A lab run. Raises UsageError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=LabRun)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{file}: {getattr(error, 'strerror', None) or error}") from None


def fit(run: LabRun) -> Tables:
    """The tables that fit. Raises UsageError if the run does not tell."""
    tables = fit_alone(run.samples)
    if run.crowd is not None:
        tables["cores"] = {"slowdown": _rounded(_slowdown(tables, run.crowd))}
    return tables


def fit_alone(samples: Sequence[Sample]) -> Tables:
    """Of what is no crowd. Raises UsageError if the samples do not tell."""
    if len({(sample.hops, trip.tokens) for sample in samples for trip in sample.trips}) < 3:
        raise UsageError("too few kinds of rounds: calibrate on chains of two lengths, with drafts and without")
    hop, start, token = _solve(
        [
            ((sample.hops, sample.layers, sample.layers * trip.tokens), trip.compute)
            for sample in samples
            for trip in sample.trips
        ]
    )
    message, per_window = _solve(
        [
            ((2 * (sample.hops + 1), 2 * sample.delay_ms * 1e-3 * _bytes(sample, trip)), _rest(sample, trip))
            for sample in samples
            for trip in sample.trips
        ]
    )
    draft_start, node = _solve(
        [((1 / sample.at_once, 1.0), sample.draft_seconds) for sample in samples if sample.draft_seconds]
    )
    found = {
        "stage": {"hop_ms": 1e3 * hop, "start_ms": 1e3 * start, "token_ms": 1e3 * token},
        "draft": {"start_ms": 1e3 * draft_start, "node_ms": 1e3 * node},
        "transport": {"message_us": 1e6 * message},
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


def _slowdown(tables: Tables, crowd: Crowd) -> float:
    """With which the simulated crowd is as fast as the real one; 0 if it is slower anyhow."""

    def too_fast(slowdown: float) -> float:
        return _simulated(tables, crowd, slowdown) - crowd.tokens_per_second

    if too_fast(0.0) <= 0:
        return 0.0
    if too_fast(_MOST) >= 0:
        return _MOST
    return float(brentq(too_fast, 0.0, _MOST, xtol=_EXACTLY))


def _simulated(tables: Tables, crowd: Crowd, slowdown: float) -> float:
    """Tokens a second of a generation in a crowd."""
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
                    "tree": False,
                    "in_flight": 1,
                    "draft_at": "client",
                    "prompt_tokens": crowd.prompt_tokens,
                    "new_tokens": crowd.new_tokens,
                    "text": crowd.acceptance,
                    "arrivals": {"requests": crowd.requests},
                }
            ],
            "link": {"delay_ms": crowd.delay_ms},
            "cores": {"slowdown": slowdown},
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
