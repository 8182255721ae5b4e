"""The parameters of a scenario that fit a lab run: of stages, of drafting, and of the transport. Pure.

Everything is a sum of so much for each of a few things, so least squares, with nothing below 0, find it:

    compute of a round = hops * hop_ms + layers * (start_ms + token_ms * tokens)
    rest of its trip - delays of its links = messages * 2 * message_us + 2 * delay * bytes / window_bytes
    seconds of a draft = start_ms / (drafts of a forward pass) + node_ms
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from scipy.optimize import nnls

from simulator.peer import HEADER, TOKEN
from swarm.errors import UsageError

_LEAST = 1e-9


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


class LabRun(msgspec.Struct, frozen=True):
    """What a calibration takes of a file that may say more."""

    samples: tuple[Sample, ...]


def read(file: Path) -> tuple[Sample, ...]:
    """Those of a lab run. Raises UsageError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=LabRun).samples
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{file}: {getattr(error, 'strerror', None) or error}") from None


def fit(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """By table of a scenario, its keys. Raises UsageError if the samples do not tell."""
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
    return {table: {key: float(f"{value:.4g}") for key, value in keys.items()} for table, keys in found.items()}


def as_toml(tables: dict[str, dict[str, float]]) -> str:
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


def _bytes(sample: Sample, trip: Trip) -> float:
    """That a round sends over all links but the last one, which brings a verdict."""
    ids = HEADER + TOKEN * trip.tokens
    return sample.hops * ids + (sample.hops - 1) * sample.row_bytes * trip.tokens


def _rest(sample: Sample, trip: Trip) -> float:
    return trip.seconds - trip.compute - (sample.hops + 1) * sample.delay_ms * 1e-3
