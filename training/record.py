"""What a training run is to do and what it did; the latter is kept as JSON beside the weights, for the model card."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

RECORD = "training.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """One stretch of training: tokens to read, and how a batch's rows are shared out among the corpus's domains."""

    name: str
    seed: int
    num_tokens: int
    mix: Mapping[str, float]

    def rng(self, worker: int) -> np.random.Generator:
        """The source of all of a worker's random choices; every plan and worker has another one."""
        return np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), worker])


@dataclass(frozen=True, slots=True)
class Phase:
    """What was done of a plan: `num_tokens` read in `minutes` of wall-clock time; `loss` is the last batch's."""

    name: str
    seed: int
    mix: Mapping[str, float]
    minutes: float
    num_steps: int
    num_tokens: int
    loss: float


def read_phases(folder: Path) -> list[Phase]:
    """The phases recorded in a pair's folder, in the order in which they ran."""
    path = folder / RECORD
    return [Phase(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def add_phase(folder: Path, phase: Phase) -> None:
    """Record a phase, in place of an earlier one of the same name and seed."""
    others = [known for known in read_phases(folder) if (known.name, known.seed) != (phase.name, phase.seed)]
    text = json.dumps([asdict(entry) for entry in [*others, phase]], indent=2)
    (folder / RECORD).write_text(text + "\n")
