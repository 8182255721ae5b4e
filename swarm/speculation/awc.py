"""AWC, the adaptive window control of DSD for edge and cloud (arXiv 2511.21669): a small network chooses. Pure.

From five features of the last rounds it says how many drafts are best. What it says is kept within 1 and 12 and
smoothed; if it says none twice in a row, none are sent. The paper's network learnt in the paper's simulator; this one
has learnt in generations in virtual time (`training/windows.py`), and lies beside this file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from swarm.speculation.cost import Cost
from swarm.speculation.windows import FixedWindow

WEIGHTS = Path(__file__).with_suffix(".json")

_LEAST, MOST = 1, 12
_SMOOTHING = 0.4  # weight of the newest word of the network
_STRIKES = 2  # words in a row that no draft is worth sending, after which none is
_FIRST = 4.0  # drafts of the first round over a chain that is not known yet
_AT_FIRST = 0.8  # acceptance that a generation begins with, ...
_TRUST = 2.0  # ... and its weight, in drafts
_MEMORY = 0.9  # weight of the acceptance so far, against one more verdict


@dataclass(frozen=True, slots=True)
class Features:
    """What the network is told."""

    utilisation: float
    """Share of their time that the stages are busy, 0..1: see Queueing."""
    acceptance: float
    """Of the drafts that the target came to of late, the share that stood."""
    links: float
    """Seconds of a trip over all links, without compute and waiting."""
    token_seconds: float
    """What a token took of late."""
    window: int
    """Drafts of the last round, at most; 0: none were wanted."""

    def scaled(self) -> tuple[float, ...]:
        """For the network: numbers of about 1."""
        return (
            self.utilisation,
            -math.log(1.02 - self.acceptance) / 2,
            math.log10(self.links + 1e-3) + 2,
            math.log10(self.token_seconds + 1e-3) + 2,
            self.window / MOST,
        )


@dataclass(frozen=True, slots=True)
class Perceptron:
    """Two layers: w . tanh(V features + b) + c drafts."""

    hidden: tuple[tuple[float, ...], ...]
    """A row for each hidden unit: a weight for each feature, then b."""
    out: tuple[float, ...]
    """A weight for each hidden unit, then c."""

    @classmethod
    @cache
    def load(cls) -> Perceptron:
        """The one that is packaged."""
        weights = json.loads(WEIGHTS.read_text())
        return cls(tuple(map(tuple, weights["hidden"])), tuple(weights["out"]))

    def __call__(self, features: Features) -> float:
        """How many drafts are best; below a half: none."""
        known = (*features.scaled(), 1.0)
        units = [math.tanh(_product(row, known)) for row in self.hidden]
        return _product(self.out, (*units, 1.0))


class AwcWindow:
    """As many drafts as the network says.

    While none are sent, the drafter goes on making one a round; how likely that one is, which it learns from the text,
    stands for the acceptance, so the network can say that drafts pay again.
    """

    limit = MOST

    def __init__(self, cost: Cost, network: Callable[[Features], float] | None = None) -> None:
        """`network`: another one than the packaged."""
        self._cost = cost
        self._network = network or Perceptron.load()
        self._stood, self._met = _AT_FIRST * _TRUST, _TRUST
        self._promise: float | None = None  # of the first draft
        self._sent = 0
        self._strikes = 0
        self._smooth = _FIRST
        if cost.trip.is_known:
            self._smooth = _within(self._network(self.features))

    @property
    def wanted(self) -> int:
        """Drafts of the next round."""
        return 0 if self._strikes >= _STRIKES else round(self._smooth)

    @property
    def features(self) -> Features:
        """As they stand."""
        queueing = self._cost.queueing
        return Features(
            queueing.utilisation,
            self._stood / self._met,
            queueing.links,
            self._cost.seconds_per_token,
            self.wanted,
        )

    def size(self, chances: Sequence[float]) -> int:
        """As many as wanted, as far as there are drafts."""
        self._promise = chances[0] if chances else None
        return min(len(chances), self.wanted)

    def is_enough(self, chances: Sequence[float], promise: float) -> bool:
        """Once nothing better can come."""
        return FixedWindow(max(self.wanted, 1)).is_enough(chances, promise)

    def sent(self, size: int) -> None:
        """Remember it for the verdict."""
        self._sent = size

    def judged(self, accepted: int) -> None:
        """Learn from the verdict, and ask the network."""
        if self._sent:
            self._note(accepted, accepted + (accepted < self._sent))
        elif self._promise is not None:
            self._note(self._promise, 1)
        if not self._cost.trip.is_known:
            return
        drafts = self._network(self.features)
        self._strikes = self._strikes + 1 if drafts < 0.5 else 0
        self._smooth += _SMOOTHING * (_within(drafts) - self._smooth)

    def _note(self, stood: float, met: int) -> None:
        """So many drafts stood, of those that the target came to."""
        self._stood = _MEMORY * self._stood + stood
        self._met = _MEMORY * self._met + met


def _product(weights: Sequence[float], values: Sequence[float]) -> float:
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def _within(drafts: float) -> float:
    return min(max(drafts, _LEAST), MOST)
