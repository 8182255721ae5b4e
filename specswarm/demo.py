"""The demo: a bootstrap node and four peers as processes of this machine, two answers, and what speculation gains."""

from __future__ import annotations

import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from client import Result, SwarmModel
from specswarm.processes import running_swarm
from specswarm.tables import standard_output
from swarm.errors import SpecswarmError
from swarm.lifetime import heeded

SPANS = ("0:2", "2:4", "4:6", "6:8")
TOKENS = 96
PROMPTS = {
    "code": "def read_lines(path):\n",
    "arithmetic": "Q: Mia has 23 apples. She buys 45 more apples. She gives away 12 of them. "
    "How many apples does Mia have now?\nA:",
}


@dataclass
class Line:
    """One row of the table."""

    prompt: str
    way: str
    result: Result


def run_demo() -> int:
    """Run it; the exit code. Every process it starts is gone when it returns, also after Ctrl-C."""
    console = standard_output()
    for number in heeded():
        signal.signal(number, signal.default_int_handler)  # which `SwarmModel` heeds
    try:
        with tempfile.TemporaryDirectory(prefix="specswarm-demo-") as folder:
            console.print(f"starting a bootstrap node and {len(SPANS)} peers, each with 2 of the target's 8 layers")
            with running_swarm("embedded", SPANS, Path(folder), options=["--threads", "1"]) as (initial_peers, _):
                lines = _generate(console, initial_peers)
        console.print(_table(lines))
    except SpecswarmError as error:
        console.print(f"demo: {error}")
        return 1
    except KeyboardInterrupt:
        console.print("\nstopped; all peers are gone")
        return 130
    return 0


def _generate(console: Console, initial_peers: list[str]) -> list[Line]:
    lines = []
    connection = SwarmModel.connect("embedded", initial_peers=initial_peers, draft="embedded-draft", threads=1)
    with connection as model:
        for name, prompt in PROMPTS.items():
            console.rule(f"{name}: drafted by a small model here, verified by four peers")
            print(prompt, end="")
            for piece in model.stream(prompt, max_new_tokens=TOKENS):
                print(piece, end="")
                sys.stdout.flush()
            print()
            for way, options in (("plain", {"window": 0}), ("speculative", {})):
                result = model.generate(prompt, max_new_tokens=TOKENS, **options)
                lines.append(Line(name, way, result))
    return lines


def _table(lines: list[Line]) -> Table:
    table = Table(title="the same text, token by token and several tokens per verdict (loopback, no link delay)")
    for heading in ("prompt", "decoding", "tokens", "verdicts", "tokens per verdict", "tokens/s", "same text"):
        table.add_column(heading)
    for line, plain in zip(lines, [lines[i - i % 2] for i in range(len(lines))], strict=True):
        result = line.result
        table.add_row(
            line.prompt,
            line.way,
            str(len(result.token_ids)),
            str(result.rounds),
            f"{len(result.token_ids) / result.rounds:.2f}",
            f"{result.tokens_per_second:.1f}",
            "yes" if result.token_ids == plain.result.token_ids else "NO",
        )
    return table
