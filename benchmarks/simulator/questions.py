"""The questions that `docs/simulator.md` answers: each a scenario, swept as the command there says, and a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from simulator.experiments import Point, combinations, sweep
from simulator.plots import draw
from simulator.scenario import load

SCENARIOS = Path("configs/scenarios")
PICTURES = Path("docs/simulator")


@dataclass(frozen=True, slots=True)
class Question:
    """One sweep of one scenario."""

    name: str
    scenario: str
    sweeps: tuple[str, ...]
    seeds: int = 3

    @property
    def command(self) -> str:
        """Which asks it."""
        swept = " ".join(f"--sweep {one}" for one in self.sweeps)
        return f"specswarm simulate {SCENARIOS / self.scenario}.toml {swept} --seeds {self.seeds} --plot {PICTURES}"

    def ask(self, done: Callable[[], None]) -> tuple[list[Point], Path]:
        """Its points, and their picture."""
        file = SCENARIOS / f"{self.scenario}.toml"
        points = list(
            sweep([(change, load(file, change)) for change in combinations(self.sweeps)], self.seeds, done)
        )
        return points, draw(points, self.scenario, PICTURES)


_DELAYS = "link.delay_ms=0,1,2,5,10,20,40,80"
QUESTIONS = (
    Question(
        "a: how much delay a chain bears", "tolerance", (_DELAYS, "clients.window=0,auto", "peers.count=1,2,4,8")
    ),
    Question(
        "b: drafters for a target",
        "edge-cloud",
        ("clients.count=4,8,16,32,64,128", "peers.count=4", "clients.arrivals.kind=closed", "seconds=15"),
    ),
    Question("c: splitting a model, by layers", "split", ("model.layers=16,32,64", "peers.layers=even,by-speed")),
    Question("c: splitting a model, by peers", "split", ("peers.count=1,2,4,8", "peers.layers=even,by-speed")),
    Question("d: routes", "policies", ("policies.routing=ours,random,round-robin,shortest-queue",)),
    Question("d: batches", "policies", ("policies.batching=ours,first-come",)),
    Question(
        "d: windows",
        "policies",
        ("clients.window=0,4,threshold,awc,auto", "clients.tree=false", "clients.in_flight=1"),
    ),
    Question("d: trees, and rounds in flight", "policies", ("clients.tree=false,true", "clients.in_flight=1,auto")),
    Question("e: where to draft", "drafting", ("link.delay_ms=5,20,40,80", "clients.draft_at=client,peer,auto")),
    Question(
        "e: or nowhere", "drafting", ("link.delay_ms=5,20,40,80", "clients.draft=none", "clients.draft_at=client")
    ),
    Question("f: a thousand peers", "thousand", ("churn.crash_per_hour=0,0.1,0.5,2", "seconds=300"), seeds=2),
)
