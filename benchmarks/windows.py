"""AWC's network beside the model of cost and windows of fixed size: the embedded pair, one round in flight. Pure.

`auto` and `awc` go by what the client has learnt of chain and draft in all generations so far, and the settings take
turns, prompt by prompt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, geometric_mean

from benchmarks.bar import Bar
from benchmarks.grid import Cell, Place, Settings

_CHAIN = {"tree": False, "in_flight": 1}
SETTINGS: Settings = {
    "chain of 4": {"window": 4, **_CHAIN},
    "chain of 8": {"window": 8, **_CHAIN},
    "awc": {"window": "awc", **_CHAIN},
    "auto": {"window": "auto", **_CHAIN},
}

COST = Bar("chains: the model of cost (auto) against AWC, geometric mean", 1.0, "x", is_floor=True)
SAME = Bar("texts that are the same with all windows", 100, "%", is_floor=True)
BARS = (COST, SAME)


def figures(cells: Sequence[Cell]) -> dict[Bar, float]:
    """What the cells say of each bar."""
    return {COST: against(cells, "auto", "awc"), SAME: 100 * fmean(one.exact for one in cells)}


def against(cells: Sequence[Cell], setting: str, other: str) -> float:
    """How many times as fast one setting is as another, over all places."""
    speeds = {(one.place, one.setting): one.tokens_per_second for one in cells}
    places = dict.fromkeys(one.place for one in cells)
    return geometric_mean(speeds[place, setting] / speeds[place, other] for place in places)


def added(cells: Sequence[Cell], record: Path) -> list[Cell]:
    """With the cells that a record of this part has of other places; there may be none yet."""
    rows = json.loads(record.read_text()).get("windows", []) if record.exists() else []
    before = [Cell(**{**row, "place": Place(**row["place"])}) for row in rows]
    measured = {one.place for one in cells}
    return [*(one for one in before if one.place not in measured), *cells]
