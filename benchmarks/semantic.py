"""The lossy rule `semantic` beside `match`: thresholds against accuracy and speed, on generated arithmetic.

A setting is chosen on validation problems, and measured on others, prompt by prompt in turn with `match`. At
temperature 0 the two have hardly anything to differ in (see ARCHITECTURE.md), so the bars speak of temperature 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from benchmarks.bar import Bar
from benchmarks.deployment import Client, deployed
from benchmarks.lab import Lab
from specswarm.calibrate import rule, table
from swarm.speculation.semantic import Leniency
from swarm.speculation.thresholds import LADDER, Trial, boldest
from training.arithmetic import Problem, answer_of, problems

DELAY_MS = 25.0
TEMPERATURES = (0.0, 1.0)
"""Of the tables; the bars speak of the last."""
LOSS_POINTS = 1.0
LOSS = Bar("semantic, 4 peers, 25 ms, T 1: accuracy lost against match", LOSS_POINTS, "points")
SPEED = Bar("semantic, 4 peers, 25 ms, T 1: tokens/s against match", 1.10, "x", is_floor=True)
BARS = (LOSS, SPEED)

_TEST, _VALIDATION = 2026, 2027  # seeds of the problems
_TOKENS = 128  # most of an answer
_SEED = 1  # of the first answer; the next ones have the next


@dataclass(frozen=True, slots=True)
class Table:
    """What every setting made of some problems, at a temperature."""

    temperature: float
    match: Trial
    others: tuple[Trial, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "temperature": self.temperature,
            "trials": [
                asdict(trial) | {"leniency": msgspec.to_builtins(trial.leniency)}
                for trial in (self.match, *self.others)
            ],
        }


def run(
    spans: Sequence[str], num_validation: int, num_problems: int, folder: Path, console: Console
) -> tuple[dict[Bar, float], list[dict[str, Any]]]:
    """What there is to say of each bar, and all tables; the chosen setting is measured on `num_problems` others."""
    folder.mkdir()
    asked, known = split(num_problems, num_validation)
    tables = list[Table]()
    with (
        Lab(hosts=len(spans) + 2, delay_ms=DELAY_MS) as lab,
        deployed(lab, "embedded", spans, folder) as (initial_peers, client),
    ):
        client.connect(model="embedded", initial_peers=initial_peers, draft="embedded-draft", threads=1)
        client.generate(
            known[0].prompt, max_new_tokens=_TOKENS
        )  # so that nobody is the first to learn what trips cost
        for temperature in TEMPERATURES:
            tables.append(measured(client, known, temperature, LADDER))
            chosen = boldest(tables[-1].match, tables[-1].others, LOSS_POINTS)
            console.print(f"validation, T {temperature:g}", table(tables[-1].match, tables[-1].others, chosen))
        if chosen is None:  # then one stays with match
            return {LOSS: 0.0, SPEED: 1.0}, [one.as_dict() for one in tables]
        tables.append(measured(client, asked, TEMPERATURES[-1], [chosen.leniency]))
        console.print(f"test, T {TEMPERATURES[-1]:g}", table(tables[-1].match, tables[-1].others))
    return figures(tables[-1]), [one.as_dict() for one in tables]


def split(num_problems: int, num_validation: int) -> tuple[list[Problem], list[Problem]]:
    """Problems that no training has seen: for testing, and others for validation."""
    asked = problems(_TEST, num_problems, "heldout")
    prompts = {problem.prompt for problem in asked}
    others = problems(_VALIDATION, num_validation + num_problems, "heldout")
    return asked, [problem for problem in others if problem.prompt not in prompts][:num_validation]


def measured(
    client: Client,
    asked: Sequence[Problem],
    temperature: float,
    settings: Sequence[Leniency | None],
    first: int = 0,
) -> Table:
    """`match` and these settings in turn for each problem, each time another one first; `first`: its number, where it
    is not 0."""
    found = [Trial(leniency) for leniency in (None, *settings)]
    options: dict[str, Any] = {"temperature": temperature, "max_new_tokens": _TOKENS}
    for i, problem in enumerate(asked, start=first):
        for j in range(i, i + len(found)):
            trial = found[j % len(found)]
            made = client.generate(problem.prompt, seed=_SEED + i, **options, **rule(trial.leniency))
            is_right = answer_of(made["text"]) == problem.answer
            found[j % len(found)] = trial.with_answer(
                is_right, len(made["token_ids"]), made["rounds"], made["seconds"]
            )
    return Table(temperature, found[0], tuple(found[1:]))


def figures(test: Table) -> dict[Bar, float]:
    """What the test says of each bar."""
    match, (semantic,) = test.match, test.others
    return {LOSS: match.accuracy - semantic.accuracy, SPEED: semantic.speed / match.speed}
