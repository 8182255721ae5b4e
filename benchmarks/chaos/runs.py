"""What is recorded of each run, and what all runs say of the bars. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from benchmarks.bar import Bar
from benchmarks.chaos import bars

DRAFT_BYTES = 5
"""Of a draft in a round: three for its token, two for its parent."""
KILLED_HOP = "kill: hop "
"""How the names of the scenarios begin in which one hop is killed."""


@dataclass(frozen=True)
class Run:
    """What came of a scenario; times in seconds."""

    name: str
    part: int
    temperature: float
    seed: int
    exact: bool
    """Whether it ended with the very tokens of the undisturbed generation."""
    error: str
    is_disturbed: bool
    """Whether the scenario's first act came before the text's end."""
    reroutes: int
    trip_seconds: float
    """What a round takes in the undisturbed generation; ..."""
    gap_seconds: float
    """... and an ordinary time from one verdict to the next in this one: less, where rounds follow each other."""
    stall_seconds: float
    """By how much the longest such time from the first act on was longer, as seen from outside."""
    client_stall_seconds: float
    """What the client itself says: by how much all disturbed trips together were longer."""
    seconds: float
    """Of the run, until everything was as before."""
    tokens_per_second: float
    bytes_client: int
    """Sent and received on the client's streams, ..."""
    more_bytes_client: int
    """... and how many more that are than for the undisturbed generation."""
    more_drafts: int
    """How many more drafts were sent than in that."""
    mend_bytes_client: int | None
    """Packets on the client's links from the first act until the text went on again, ..."""
    mend_bytes_peers: int | None
    """... and between the peers; None where not both moments were seen."""
    log: list[str] = field(default_factory=list)
    """What the client said of its peers meanwhile: for whoever wonders at the figures."""

    @property
    def ordinary_seconds(self) -> float:
        """What is waited for where nothing goes wrong: a trip, or what lies between verdicts, if that is longer, for
        drafting comes on top."""
        return max(self.trip_seconds, self.gap_seconds)

    @property
    def bytes_beside_drafts(self) -> int:
        """How many more bytes on the client's streams than those of more drafts: with rounds in flight there are now
        more of them, now fewer, whatever happens."""
        return self.more_bytes_client - DRAFT_BYTES * self.more_drafts


def stalls(times: Sequence[float], usual_first: float, before: int) -> tuple[float, float]:
    """An ordinary time from one verdict to the next, and by how much the longest was longer.

    `times`: of the verdicts, from the generation's start; `usual_first`: of the first one in an undisturbed generation;
    `before`: how many verdicts came before the first act: what they took does not count.
    """
    gaps = [later - earlier for earlier, later in pairwise(times)]
    ordinary = median(gaps) if gaps else 0.0
    late = [gap - ordinary for gap in gaps[max(before - 1, 0) :]]
    if before == 0 and times:
        late.append(times[0] - usual_first)
    return ordinary, max([0.0, *late])


def trip_of(result: Mapping[str, Any]) -> float:
    """What a round with as many drafts as it usually had has taken in a generation, by its own model of cost."""
    cost, drafts = result["cost"], result["drafted"] / result["rounds"]
    return float(cost["trip_fixed"] + cost["trip_per_position"] * (1 + drafts))


def figures(runs: Sequence[Run]) -> dict[Bar, float]:
    """What the runs say of those bars of which they say anything."""
    found: dict[Bar, float] = {}
    if runs:
        found[bars.EXACT] = share(run.exact for run in runs)
        found[bars.DISTURBED] = share(run.is_disturbed for run in runs)
    if killed := [run for run in runs if run.name.startswith(KILLED_HOP)]:
        found[bars.KILL_MEDIAN] = median(run.stall_seconds for run in killed)
        found[bars.KILL_WORST] = max(run.stall_seconds for run in killed)
        found[bars.MEND_BYTES] = max(run.bytes_beside_drafts for run in killed) / 1024
    if hung := [run for run in runs if run.name.startswith("hung")]:
        found[bars.HUNG_WORST] = max(run.stall_seconds for run in hung)
    if drained := [run for run in runs if run.name.startswith("drain")]:
        found[bars.DRAIN_WORST] = max(
            (run.gap_seconds + run.stall_seconds) / run.ordinary_seconds - 1 for run in drained
        )
    return found


def cost(runs: Sequence[Run]) -> dict[str, float]:
    """What it takes when a hop is killed while decoding, in bytes, the median: see Run."""
    killed = [run for run in runs if run.name.startswith(KILLED_HOP) and "prefill" not in run.name]
    sizes = {
        "more_bytes_client": [run.more_bytes_client for run in killed],
        "mend_bytes_client": [run.mend_bytes_client for run in killed if run.mend_bytes_client is not None],
        "mend_bytes_peers": [run.mend_bytes_peers for run in killed if run.mend_bytes_peers is not None],
    }
    return {name: median(known) for name, known in sizes.items() if known}


def share(answers: Iterable[bool]) -> float:
    """How many of them are true, in percent."""
    listed = list(answers)
    return 100 * sum(listed) / len(listed)
