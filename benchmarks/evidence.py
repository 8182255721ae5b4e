"""TK-SLT's trade (arXiv 2509.04576): how many choices to tell of each draft, over uplinks of every speed.

Chains under the rule `rejection`, one round in flight, the embedded pair at temperature 1; two peers and links of 5 ms,
so that drafts are dear enough for their number to matter; the client's uplink alone is slow. All texts are code, for
the closed form knows one number for all drafts: where a third of them is easy arithmetic, the best fixed window is near
that of the arithmetic. A cell is one K at one uplink:

- a *pilot* of a short and a long window gives what the closed form asks for: a, the share of judged drafts that stand,
  and L. The closed form has no term for the trip; but with cost(g) = fixed + per_position (g + 1) + draft g, and L all
  that one more draft takes (to work out, to send with its evidence, to run, as far as it is not hidden) in units of all
  that is fixed, it is 1 + g L. Both are of the line through the times of verdicts on 1 and on 8 drafts. It does not
  begin at plain decoding: to draft at all takes a few per cent of a trip, which count when drafts are weighed
  against none.
- a *ladder* of all windows around the one that the closed form makes of these, measured anew, all in turn prompt by
  prompt. Its speed at window g is E(g) / T(g): T the mean time of the verdicts that had g drafts, E = 1 + the shares of
  verdicts, of all windows that reach so far, whose first 1, 2, ... g drafts stood. Speed as it is told by so few tokens
  would be as much the luck of what was drawn; of E(g), neighbours share the luck.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.bar import Bar
from benchmarks.deployment import Client, deployed
from benchmarks.lab import Lab
from swarm.speculation.closed_form import best_length, speedup
from swarm.wire import MAX_EVIDENCE

SPANS = ("0:4", "4:8")
DELAY_MS = 5.0
TEMPERATURE = 1.0
FULL = MAX_EVIDENCE
"""K for all choices: the embedded pair has 2,048."""
UPLINKS = (0.5, 5.0, 50.0)
SHORT, LONG = 1, 8
"""The pilot's windows. The long one is so long that most verdicts end at a draft that does not stand, not for want of
drafts: so a is the share over nearly all positions of the text; a short window judges fewer of the easy ones."""
TEXTS = 3
"""Code prompts for each of those that other parts have of a kind."""
_BEYOND = 3  # windows of the ladder past the closed form's
_PILOT_SHARE = 0.5  # of a cell's time
_FEW = 3  # texts that a pilot and a ladder have in any case
_CLIENT = len(SPANS) + 1  # its host

WITHIN = Bar("the closed form's window within 1 of the best measured", 80, "% of cells", is_floor=True)

Generation = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One window of a ladder."""

    window: int
    tokens: float
    """Expected of a verdict."""
    seconds: float
    """Mean time of a verdict, ..."""
    error: float
    """... and its standard error."""
    raw: float
    """Tokens per second of whole generations: opening the chain and the prefill count."""

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Pilot:
    """What the closed form is told of a cell."""

    acceptance: float
    """a: of the judged drafts, those that stand."""
    draft_cost: float
    """L: what one more draft takes, in units of what is fixed."""
    fixed: float
    """That, in trips without drafts."""

    @property
    def window(self) -> int:
        """The closed form's; 0 if it is no faster than none."""
        acceptance, draft_cost = min(max(self.acceptance, 0.01), 0.99), max(self.draft_cost, 1e-3)
        length = best_length(acceptance, min(draft_cost, 0.99))
        return length if speedup(acceptance, draft_cost, length) > self.fixed else 0


@dataclass(frozen=True)
class Cell:
    """One K at one uplink."""

    k: int
    uplink_mbit: float
    evidence_bytes: float
    """For each drafted token."""
    pilot: Pilot
    ladder: tuple[Step, ...]
    """The first is plain decoding."""
    texts: int
    """Generations of each window."""

    @property
    def predicted(self) -> int:
        """The closed form's window."""
        return self.pilot.window

    @property
    def best(self) -> Step:
        """The fastest."""
        return max(self.ladder, key=lambda step: step.speed)

    @property
    def best_raw(self) -> Step:
        """The fastest over whole generations: of a few hundred tokens, the luck of what was drawn is in it."""
        return max(self.ladder, key=lambda step: step.raw)

    @property
    def at_predicted(self) -> Step:
        """The one of the closed form's window."""
        return next(step for step in self.ladder if step.window == self.predicted)

    def times(self, step: Step) -> float:
        """Its speed against plain decoding."""
        return step.speed / self.ladder[0].speed

    @property
    def lag(self) -> float:
        """By which share the closed form's window is slower than the best."""
        return 1 - self.at_predicted.speed / self.best.speed


def run(
    sizes: Sequence[int],
    uplinks: Sequence[float],
    texts: Sequence[str],
    tokens: int,
    seconds: float,
    folder: Path,
    tell: Callable[[Cell], None],
) -> list[Cell]:
    """All cells; each is told when it is there. After so many seconds, one makes do with the texts it has had."""
    cells: list[Cell] = []
    if not sizes or not uplinks:
        return cells
    folder.mkdir()
    with (
        Lab(hosts=_CLIENT + 1, delay_ms=DELAY_MS) as lab,
        deployed(lab, "embedded", SPANS, folder) as (initial_peers, client),
    ):
        client.connect(model="embedded", initial_peers=initial_peers, draft="embedded-draft", threads=1)
        for uplink, k in itertools.product(uplinks, sizes):
            lab.set_rate(uplink, _CLIENT)
            cells.append(_measure(k, uplink, client, texts, tokens, seconds))
            tell(cells[-1])
    return cells


def _measure(k: int, uplink: float, client: Client, texts: Sequence[str], tokens: int, seconds: float) -> Cell:
    """The pilot, then the ladder around what follows from it."""

    def generate(window: int, seed: int, text: str) -> Generation:
        return client.generate(
            text,
            max_new_tokens=tokens,
            temperature=TEMPERATURE,
            seed=seed,
            window=window,
            tree=False,
            in_flight=1,
            acceptance="rejection",
            evidence_k=k,
        )

    def in_turn(windows: Sequence[int], seconds: float, seeds: int) -> dict[int, list[Generation]]:
        made: dict[int, list[Generation]] = {window: [] for window in windows}
        end = time.monotonic() + seconds
        for i, text in enumerate(texts):
            for window in windows:
                made[window].append(generate(window, seeds + i, text))
            if i + 1 >= _FEW and time.monotonic() > end:
                break
        return made

    generate(LONG, 0, texts[0])  # warms the peers up
    pilot = pilot_of(in_turn((0, SHORT, LONG), _PILOT_SHARE * seconds, seeds=1000))
    made = in_turn(ladder(pilot.window), (1 - _PILOT_SHARE) * seconds, seeds=2000)
    return cell(k, uplink, pilot, made)


def pilot_of(made: Mapping[int, Sequence[Generation]]) -> Pilot:
    """From generations without drafts, and with the short and the long window."""
    verdicts = [one for result in made[LONG] for one in result["verdicts"]]
    accepted = sum(one["accepted"] for one in verdicts)
    judged = sum(min(one["accepted"] + 1, one["drafted"]) for one in verdicts)
    plain, short, long = (mean(_seconds(made[window], window)) for window in (0, SHORT, LONG))
    per_draft = (long - short) / (LONG - SHORT)
    fixed = short - SHORT * per_draft
    return Pilot(accepted / judged, per_draft / fixed, fixed / plain)


def ladder(predicted: int) -> tuple[int, ...]:
    """The windows to be measured: none, and from 1 to some beyond the closed form's."""
    return tuple(range(predicted + _BEYOND + 1))


def cell(
    k: int,
    uplink: float,
    pilot: Pilot,
    made: Mapping[int, Sequence[Generation]],
) -> Cell:
    """Figures of a ladder, generations by window."""
    drafting = [result for window, results in made.items() if window for result in results]
    verdicts = [(one["drafted"], one["accepted"]) for result in drafting for one in result["verdicts"]]
    return Cell(
        k=k,
        uplink_mbit=uplink,
        evidence_bytes=sum(r["evidence_bytes"] for r in drafting) / sum(r["drafted"] for r in drafting),
        pilot=pilot,
        ladder=tuple(_step(window, results, verdicts) for window, results in made.items()),
        texts=len(made[0]),
    )


def _step(window: int, results: Sequence[Generation], verdicts: Sequence[tuple[int, int]]) -> Step:
    seconds = _seconds(results, window)
    return Step(
        window=window,
        tokens=1 + sum(share_that_stands(verdicts, depth) for depth in range(1, window + 1)),
        seconds=mean(seconds),
        error=stdev(seconds) / math.sqrt(len(seconds)),
        raw=sum(len(result["token_ids"]) for result in results) / sum(result["seconds"] for result in results),
    )


def share_that_stands(verdicts: Sequence[tuple[int, int]], depth: int) -> float:
    """Of verdicts on (drafted, accepted) that reach so far, the share in which the first `depth` drafts stood."""
    return mean(accepted >= depth for drafted, accepted in verdicts if drafted >= depth)


def _seconds(results: Sequence[Generation], window: int) -> list[float]:
    """Of the verdicts on as many drafts, after the first, which brings the prompt."""
    return [one["seconds"] for result in results for one in result["verdicts"][1:] if one["drafted"] == window]


def figures(cells: Sequence[Cell]) -> dict[Bar, float]:
    """The share of the cells in which the closed form is near the best, in percent."""
    return {WITHIN: 100 * mean(abs(one.predicted - one.best.window) <= 1 for one in cells)} if cells else {}


def as_record(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(one) for one in cells]


def from_record(record: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """The cells of a result file."""
    return [
        Cell(**{**one, "pilot": Pilot(**one["pilot"]), "ladder": tuple(Step(**step) for step in one["ladder"])})
        for one in record
    ]


def merged(older: Sequence[Cell], newer: Sequence[Cell]) -> list[Cell]:
    """In order of K and uplink; of the same ones, the newer."""
    by_place = {(one.k, one.uplink_mbit): one for one in [*older, *newer]}
    return [by_place[place] for place in sorted(by_place)]
