"""The parts of `make bench`: what each runs, shows and records, and the bars that it is held to.

grid       the embedded pair in every setting, over swarms, links and temperatures
windows    chains alone: AWC's network beside the model of cost and fixed lengths
idle       the pair, traced: the time in which nobody computes
places     the pair, drafted at the client and at a peer
semantic   accuracy and speed under the lossy rule
evidence   how much evidence pays under the rule `rejection`, over which uplinks
rules      that rule beside `match`
agreement  how often draft and target agree by shared noise alone; without a network
petals     a random model that is its own draft, in the setting in which Petals was measured
wire       one of hidden size 8,192 and next to no compute: what the bytes of hidden states cost
loopback   what a hop costs beyond its compute
"""

from __future__ import annotations

import itertools
import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import (
    agreement,
    evidence,
    grid,
    idle,
    petals,
    places,
    plots,
    prompts,
    report,
    rules,
    semantic,
    windows,
    wire,
)
from benchmarks.bar import Outcome, check
from benchmarks.deployment import Client, deployed, start_client
from benchmarks.figures import Trips, trips
from benchmarks.grid import Cell, Place, Settings
from benchmarks.lab import Lab
from specswarm.processes import running_swarm

LAYERS = 8  # of the embedded target
SPANS = ("0:2", "2:4", "4:6", "6:8")
SEED = 7

Part = Callable[[Namespace, Path, Console], tuple[Any, list[Outcome]]]
"""Given the options, a folder that is not there yet, and where to show things: its record, and what became of bars."""


def _grid(options: Namespace, folder: Path, console: Console) -> tuple[Any, list[Outcome]]:
    cells = [
        one
        for peers in options.peers
        for one in _swarm(peers, options.rates, grid.SETTINGS, options, folder / str(peers), console)
    ]
    console.print(*report.grid_tables(cells), sep="\n")
    plots.draw(cells, options.out.parent)
    return [asdict(one) for one in cells], check(grid.BARS, grid.figures(cells))


def _windows(options: Namespace, folder: Path, console: Console) -> tuple[Any, list[Outcome]]:
    cells = _swarm(len(SPANS), [0.0], windows.SETTINGS, options, folder, console)
    if options.add:
        cells = windows.added(cells, options.out)
    console.print(report.of_windows(cells))
    return [asdict(one) for one in cells], check(windows.BARS, windows.figures(cells))


def _idle(options: Namespace, folder: Path, console: Console) -> tuple[Any, list[Outcome]]:
    shares = idle.run(SPANS, _texts(options), options.tokens, folder)
    console.print(f"share of the time in which nobody computes, 25 ms: {shares}")
    return shares, check((idle.IDLE,), {idle.IDLE: shares["auto"] / shares["one in flight"]})


def _places(options: Namespace, folder: Path, console: Console) -> tuple[Any, list[Outcome]]:
    found = places.run(SPANS, _texts(options), options.tokens, folder)
    console.print(report.places(found))
    return found, []


def _semantic(options: Namespace, folder: Path, console: Console) -> tuple[Any, list[Outcome]]:
    found, record = semantic.run(SPANS, options.validation, options.problems, folder, console)
    return record, check(semantic.BARS, found)


def _evidence(options: Namespace, folder: Path, console: Console) -> tuple[Any, list[Outcome]]:
    """The cells asked for, among those of the files that are to be completed."""
    older = [
        one for file in options.cells_of for one in evidence.from_record(json.loads(file.read_text())["evidence"])
    ]
    sizes = [evidence.FULL if size == "full" else int(size) for size in options.evidence_k]
    texts = prompts.code(evidence.TEXTS * options.num_prompts, options.prompts)
    newer = evidence.run(
        sizes,
        options.uplinks,
        texts,
        options.tokens,
        options.cell_seconds,
        folder,
        lambda cell: console.print(report.evidence_line(cell), highlight=False),
    )
    cells = evidence.merged(older, newer)
    console.print(report.evidence_table(cells))
    plots.draw_evidence(cells, options.out.parent)
    return evidence.as_record(cells), check((evidence.WITHIN,), evidence.figures(cells))


def _rules(options: Namespace, folder: Path, console: Console) -> tuple[Any, list[Outcome]]:
    folder.mkdir()
    place = rules.PLACE
    with (
        Lab(hosts=len(SPANS) + 2, delay_ms=place.delay_ms) as lab,
        deployed(lab, "embedded", SPANS, folder) as (initial_peers, client),
    ):
        client.connect(model="embedded", initial_peers=initial_peers, draft="embedded-draft", threads=1)
        cells = _at(place, lab, client, rules.SETTINGS, _texts(options), options.tokens)
    console.print(*map(report.one_line, cells), sep="\n", highlight=False)
    return [asdict(one) for one in cells], []


def _agreement(options: Namespace, folder: Path, console: Console) -> tuple[Any, list[Outcome]]:
    rows = agreement.run(_kinds(options, agreement.PROMPTS))
    console.print(report.agreement_table(rows))
    return [asdict(row) for row in rows], check((agreement.GAP,), agreement.figures(rows))


def _petals(options: Namespace, folder: Path, console: Console) -> tuple[Any, list[Outcome]]:
    rows = petals.run(options.delays, folder, console)
    console.print(report.against_petals(rows))
    return [asdict(row) for row in rows], []


def _wire(options: Namespace, folder: Path, console: Console) -> tuple[Any, list[Outcome]]:
    hops, losses = wire.run(_texts(options), options.tokens, folder, console)
    return wire.as_dict(hops, losses), check(wire.BARS, wire.figures(hops))


def _loopback(options: Namespace, folder: Path, console: Console) -> tuple[Any, list[Outcome]]:
    found = _over_loopback(options, folder)
    console.print(report.loopback(found, len(SPANS)))
    return asdict(found), []


PARTS: dict[str, Part] = {
    "grid": _grid,
    "windows": _windows,
    "idle": _idle,
    "places": _places,
    "semantic": _semantic,
    "evidence": _evidence,
    "rules": _rules,
    "agreement": _agreement,
    "petals": _petals,
    "wire": _wire,
    "loopback": _loopback,
}


def _swarm(
    peers: int, rates: Sequence[float], settings: Settings, options: Namespace, folder: Path, console: Console
) -> list[Cell]:
    """These settings over all links and temperatures of one swarm."""
    texts, cells = _texts(options), list[Cell]()
    spans = [f"{LAYERS * i // peers}:{LAYERS * (i + 1) // peers}" for i in range(peers)]
    folder.mkdir(parents=True)
    with Lab(hosts=peers + 2) as lab, deployed(lab, "embedded", spans, folder) as (initial_peers, client):
        client.connect(model="embedded", initial_peers=initial_peers, draft="embedded-draft", threads=1)
        for rate, delay, temperature in itertools.product(rates, options.delays, options.temperatures):
            lab.set_rate(rate or None)
            lab.set_delay(delay)
            place = Place(peers, delay, rate or None, temperature)
            for one in _at(place, lab, client, settings, texts, options.tokens):
                console.print(report.one_line(one), highlight=False)
                cells.append(one)
    return cells


def _at(place: Place, lab: Lab, client: Client, settings: Settings, texts: list[str], tokens: int) -> list[Cell]:
    """All settings, in turn for each prompt; their texts beside those of the first."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    carried = dict.fromkeys(settings, 0)
    for text in texts:
        for name, setting in settings.items():
            lab.reset_traffic()
            results[name].append(
                client.generate(text, temperature=place.temperature, max_new_tokens=tokens, seed=SEED, **setting)
            )
            carried[name] += sum(count.bytes for count in lab.traffic().values())
    first = next(iter(results.values()))
    return [grid.cell(place, name, made, first, carried[name]) for name, made in results.items()]


def _over_loopback(options: Namespace, folder: Path) -> Trips:
    """Plain decoding over the loopback interface, without the lab's router."""
    folder.mkdir()
    texts = prompts.code(options.num_prompts, options.prompts)
    with running_swarm("embedded", SPANS, folder, options=["--threads", "1"]) as (initial_peers, _):
        client = start_client()
        try:
            client.connect(model="embedded", initial_peers=initial_peers, draft="none", threads=1)
            results = [client.generate(text, window=0, max_new_tokens=options.tokens) for text in texts]
        finally:
            client.close()
    return trips(results)


def _texts(options: Namespace) -> list[str]:
    """As many prompts of each kind."""
    return [text for texts in _kinds(options, options.num_prompts).values() for text in texts]


def _kinds(options: Namespace, count: int) -> dict[str, list[str]]:
    """So many prompts of each kind."""
    kinds = {
        "code": prompts.code(count, options.prompts),
        "questions": prompts.questions(count, options.questions),
        "arithmetic": prompts.arithmetic(count),
    }
    return {kind: texts for kind, texts in kinds.items() if texts}
