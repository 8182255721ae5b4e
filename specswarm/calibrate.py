"""`specswarm calibrate`: how lenient the rule `semantic` may be for a stated loss of accuracy, by a validation file.

Every prompt is answered through the swarm under `match` and under each setting of the ladder, in turn. An answer is
right if the text has the file's answer as it stands there, and not as a part of a longer word or number. What was
chosen is written as the table that `generate --semantic FILE` takes, or the key `semantic` of [generate].
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from client.api import AsyncSwarmModel
from client.config import ClientConfig, GenerationConfig
from specswarm import console
from specswarm.tables import standard_output
from swarm.errors import UsageError
from swarm.speculation.semantic import Leniency
from swarm.speculation.thresholds import LADDER, Trial, boldest
from swarm.user_files import read_bytes


class Example(msgspec.Struct, frozen=True):
    """A line of the validation file; what else it says does not matter."""

    prompt: str
    answer: str


def read_examples(file: Path) -> list[Example]:
    """The lines of a JSON lines file. Raises UsageError if it has none, or another one."""
    try:
        lines = read_bytes(file).splitlines()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    examples = []
    for number, line in enumerate(lines, start=1):
        try:
            examples.append(msgspec.json.decode(line, type=Example))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(f'{file}, line {number}: not {{"prompt": ..., "answer": ...}}: {error}') from None
    if not examples:
        raise UsageError(f"{file} has no examples")
    return examples


def is_right(text: str, answer: str) -> bool:
    """Whether a generated text has this answer."""
    return re.search(rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\d)", text) is not None


async def calibrate(
    settings: ClientConfig, wanted: GenerationConfig, examples: Sequence[Example], seed: int
) -> tuple[Trial, list[Trial]]:
    """Join the swarm, and try; see `trials`."""
    async with AsyncSwarmModel.connect_with(settings) as connected:
        return await trials(connected, examples, wanted.model_dump(exclude_unset=True), seed)


async def trials(
    model: AsyncSwarmModel, examples: Sequence[Example], options: dict[str, Any], seed: int
) -> tuple[Trial, list[Trial]]:
    """Under `match`, and with each setting of the ladder; `options` are those of all generations."""
    found = [Trial(leniency) for leniency in (None, *LADDER)]
    await model.generate(examples[0].prompt, **options)  # so that nobody is the first to learn what trips cost
    for i, example in enumerate(examples):
        for j in range(i, i + len(found)):  # each time another one first
            trial = found[j % len(found)]
            made = await model.generate(example.prompt, **options | rule(trial.leniency), seed=seed + i)
            right = is_right(made.text, example.answer)
            found[j % len(found)] = trial.with_answer(right, len(made.token_ids), made.rounds, made.seconds)
    return found[0], found[1:]


def rule(leniency: Leniency | None) -> dict[str, Any]:
    """The options of a generation under this setting; None: under `match`."""
    if leniency is None:
        return {"acceptance": "match"}
    return {"acceptance": "semantic", "semantic": msgspec.to_builtins(leniency)}


def report(match: Trial, others: Sequence[Trial], loss: float, *, is_json: bool) -> Trial | None:
    """Print what was found; the boldest setting that loses at most so many points of accuracy, if any does."""
    chosen = boldest(match, others, loss)
    if is_json:
        console.print_json(**msgspec.to_builtins({"match": match, "trials": others, "chosen": chosen}))
    else:
        standard_output().print(table(match, others, chosen))
    if chosen is None:
        console.say(f"every setting loses more than {loss:g} points of accuracy: stay with match")
    return chosen


def table(match: Trial, others: Sequence[Trial], chosen: Trial | None = None) -> Table:
    """Settings against accuracy and speed; the chosen one is marked."""
    table = Table(title=f"{match.asked} prompts, each under every setting")
    for heading in (
        "tau",
        "entropy",
        "difference",
        "disagreement",
        "accuracy %",
        "tokens a verdict",
        "tokens/s",
        "x",
    ):
        table.add_column(heading, justify="right")
    for trial in (match, *others):
        values = msgspec.structs.astuple(trial.leniency) if trial.leniency else ("match", "", "", "")
        table.add_row(
            *map(str, values),
            f"{trial.accuracy:.1f}",
            f"{trial.per_verdict:.2f}",
            f"{trial.speed:.1f}",
            f"{trial.speed / match.speed:.2f}" + (" *" if trial is chosen else ""),
        )
    return table


def write(file: Path, match: Trial, chosen: Trial) -> None:
    """The chosen setting as a table, with what was measured. Raises UsageError if it cannot be written."""
    measured = (
        f"# by specswarm calibrate, over {match.asked} prompts: accuracy {match.accuracy:.1f} % under match, "
        f"{chosen.accuracy:.1f} % so; tokens/s {match.speed:.1f} and {chosen.speed:.1f}\n"
    )
    lines = [f"{key} = {value}\n" for key, value in msgspec.to_builtins(chosen.leniency).items()]
    try:
        file.write_text(measured + "".join(lines))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None


def read(file: Path) -> dict[str, Any]:
    """The table in such a file. Raises UsageError if there is none."""
    try:
        return tomllib.loads(read_bytes(file).decode())
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None
