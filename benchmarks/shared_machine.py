"""`make bench-machine`: programs that share one machine's cores, with the threads they choose and with given numbers.

Four peers of the embedded target, for 1, 4 and 16 clients at once, plain and speculative; then joins of a larger model,
one with one thread and three at once that choose. All by turns. Prints tables and bars, writes JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.bar import Bar, Outcome, check, conclude
from benchmarks.deployment import Client, start_client
from benchmarks.prompts import CODE
from specswarm import console as command
from specswarm.processes import LOOPBACK, Program, running_swarm

SPANS = ("0:2", "2:4", "4:6", "6:8")
CLIENTS = (1, 4, 16)
WAYS: dict[str, dict[str, Any]] = {"plain": {"window": 0}, "speculative": {}}
DEFAULT = "default"
READY_SECONDS = 900.0

SHARES = {
    (way, clients): Bar(f"{clients} clients, {way}: default, of the best fixed number of threads", 0.85, "x", True)
    for way in WAYS
    for clients in CLIENTS
}
TOGETHER = Bar("three default joins at once, of one with one thread", 4.0, "x")
BEYOND_READING = Bar("one join with one thread, beyond reading its weights", 15.0, "s")

Speeds = dict[tuple[str, int], float]
"""tokens/s of all clients together, by way and number of clients."""


@dataclass(frozen=True)
class Joins:
    """Seconds until peers were ready, in one turn."""

    reading: float
    """The weights, once for their hash and once for their tensors: no peer does with less."""
    one: float
    together: float
    """The last of three."""


def main() -> int:
    """Run what the command line asks for; the exit code."""
    options = _options()
    command.let_threads_sleep()  # of clients, too: peers do it by themselves
    console = Console(width=120)
    outcomes: list[Outcome] = []
    record: dict[str, Any] = {"machine": machine.describe(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
    with tempfile.TemporaryDirectory(prefix="specswarm-machine-") as scratch:
        for part in options.parts:
            record[part], became = PARTS[part](options, Path(scratch), console)
            outcomes += became
    return conclude(console, outcomes, record, options.out)


def _measure_speed(options: argparse.Namespace, folder: Path, console: Console) -> tuple[Any, list[Outcome]]:
    turns: list[tuple[str, Speeds]] = []
    for turn in range(options.turns):
        for setting, speeds in _speeds(options, turn, folder / f"speed-{turn}"):
            turns.append((setting, speeds))
            console.print(f"--threads {setting}:", _named(speeds), highlight=False)
    shares = best_shares(turns)
    console.print(_speed_table(turns, shares))
    figures = {SHARES[cell]: share for cell, share in shares.items()}
    return [[setting, _named(speeds)] for setting, speeds in turns], check(tuple(SHARES.values()), figures)


def _measure_joins(options: argparse.Namespace, folder: Path, console: Console) -> tuple[Any, list[Outcome]]:
    model = options.model or _large_model(folder / "model")
    turns = []
    for turn in range(options.turns):
        turns.append(_joins(model, folder / f"joins-{turn}"))
        console.print(str(turns[-1]), highlight=False)
    return [asdict(turn) for turn in turns], check((TOGETHER, BEYOND_READING), join_figures(turns))


PARTS = {"speed": _measure_speed, "joins": _measure_joins}


# --- tokens a second ----------------------------------------------------------------------------------------------


def best_shares(turns: list[tuple[str, Speeds]]) -> Speeds:
    """Of each cell, what the default reaches of the setting that is best there, by the medians of all turns."""
    settings = {setting for setting, _ in turns}
    cells = {cell for _, speeds in turns for cell in speeds}

    def typical(setting: str, cell: tuple[str, int]) -> float:
        return median(speeds[cell] for own, speeds in turns if own == setting)

    return {
        cell: typical(DEFAULT, cell) / max(typical(setting, cell) for setting in settings - {DEFAULT})
        for cell in sorted(cells)
    }


def _speeds(options: argparse.Namespace, turn: int, folder: Path) -> Iterator[tuple[str, Speeds]]:
    """Each setting once, in each turn another one first, with peers and a client started for it."""
    settings = [DEFAULT, *map(str, options.threads)]
    for i in range(len(settings)):
        setting = settings[(turn + i) % len(settings)]
        place = folder / setting
        place.mkdir(parents=True)
        given = [] if setting == DEFAULT else ["--threads", setting]
        with running_swarm(options.target, options.spans, place, options=given, ready_seconds=READY_SECONDS) as (
            reach,
            _,
        ):
            client = start_client()
            try:
                threads = None if setting == DEFAULT else int(setting)
                client.connect(model=options.target, initial_peers=reach, draft=options.draft, threads=threads)
                yield setting, {(way, n): _speed(client, way, n, options) for way in WAYS for n in CLIENTS}
            finally:
                client.close()


def _speed(client: Client, way: str, clients: int, options: argparse.Namespace) -> float:
    prompts = [CODE[i % len(CODE)] for i in range(clients)]
    client.generate(prompts[0], max_new_tokens=16, **WAYS[way])  # links and caches are used to it then
    machine.await_calm()
    tokens, seconds = client.generate_together(prompts, max_new_tokens=options.tokens, **WAYS[way])
    return tokens / seconds


def _named(speeds: Speeds) -> dict[str, float]:
    return {f"{way}, {clients} clients": round(speed, 1) for (way, clients), speed in speeds.items()}


def _speed_table(turns: list[tuple[str, Speeds]], shares: Mapping[tuple[str, int], float]) -> Table:
    table = Table("way", "clients", *dict.fromkeys(setting for setting, _ in turns), "default / best fixed")
    table.title = "tokens/s of all clients together, median of the turns, by --threads"
    for cell, share in shares.items():
        found = {
            setting: median(speeds[cell] for own, speeds in turns if own == setting)
            for setting in dict.fromkeys(setting for setting, _ in turns)
        }
        table.add_row(cell[0], str(cell[1]), *(f"{speed:.1f}" for speed in found.values()), f"{share:.2f}")
    return table


# --- joins --------------------------------------------------------------------------------------------------------


def join_figures(joins: list[Joins]) -> dict[Bar, float]:
    """The figures that the bars speak of: medians of what each turn gives."""
    return {
        TOGETHER: median(turn.together / turn.one for turn in joins),
        BEYOND_READING: median(turn.one - turn.reading for turn in joins),
    }


def _joins(model: Path, folder: Path) -> Joins:
    """One join with one thread, then three at once."""
    folder.mkdir()
    reading = _read(model)
    bootstrap = _program(folder, "bootstrap", "bootstrap")
    try:
        reach = [part for maddr in bootstrap.next(60)["maddrs"] for part in ("--initial-peer", maddr)]
        one = _ready_seconds(folder / "one", model, [*reach, "--threads", "1"], 1)
        together = _ready_seconds(folder / "together", model, reach, 3)
    finally:
        bootstrap.stop()
    return Joins(reading, one, together)


def _read(model: Path) -> float:
    """Seconds for the weights' hash and for their tensors."""
    from safetensors.torch import load_file

    started = time.perf_counter()
    for file in model.glob("*.safetensors"):
        with file.open("rb") as opened:
            hashlib.file_digest(opened, "sha256")
        for tensor in load_file(file).values():
            tensor.clone()
    return time.perf_counter() - started


def _ready_seconds(folder: Path, model: Path, options: list[str], count: int) -> float:
    """How long it takes until so many peers that join at once serve the model."""
    folder.mkdir()
    machine.await_calm()
    started = time.perf_counter()
    peers = [_program(folder, f"{i}", "join", str(model), *options) for i in range(count)]
    try:
        for peer in peers:
            peer.next(READY_SECONDS)
        return time.perf_counter() - started
    finally:
        for peer in peers:
            peer.process.terminate()
        for peer in peers:
            peer.finish(30)


def _program(folder: Path, name: str, *arguments: str) -> Program:
    """One of our programs on loopback that knows nothing of weights it has seen before."""
    listen = [part for maddr in LOOPBACK for part in ("--host-maddr", maddr)]
    identity = ["--identity", str(folder / f"{name}.key")]
    popen = partial(subprocess.Popen, env={**os.environ, "XDG_CACHE_HOME": str(folder / name)})
    return Program([*arguments, *identity, *listen], folder / f"{name}.log", popen)


def _large_model(folder: Path) -> Path:
    """A random Llama of SmolLM2-135M's shape: 30 layers, 135 M parameters, 540 MB."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--turns", type=int, default=3, help="how often each setting has its turn")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="fixed numbers to compare with")
    parser.add_argument("--target", default="embedded", help="whose speed is measured")
    parser.add_argument("--spans", nargs="+", default=[*SPANS], help="layers of its peers")
    parser.add_argument("--draft", default="embedded-draft")
    parser.add_argument("--tokens", type=int, default=48, help="new tokens of each client's text")
    parser.add_argument("--model", type=Path, help="folder of the model that joins; default: one made at random")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/machine.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
