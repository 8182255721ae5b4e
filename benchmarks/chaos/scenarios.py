"""What happens in each run: acts on hops, links and nodes, at moments of a generation. Pure: a seed gives them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

NUM_SPANS = 4
TOKENS = 96  # of a generation
SEEDS = (1, 2, 3, 4)
"""Of sampled texts: few, so that the undisturbed ones are generated once."""

Deed = Literal[
    "kill",
    "kill substitute",
    "stop",
    "continue",
    "terminate",
    "cut",
    "heal",
    "loss",
    "delay",
    "bootstrap",
    "better",
]
"""kill, stop (SIGSTOP), continue, terminate (SIGTERM): a hop's process; kill substitute: the peer by which the chain is
being mended, when it is; cut, heal: a hop's host; loss, delay: of all links; bootstrap: killed, and started again;
better: another peer appears."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When an act is due: `seconds` after the generation has so many tokens, or after a draft was rejected then."""

    tokens: int
    seconds: float = 0.0
    rejected: bool = False


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that is done."""

    moment: Moment
    deed: Deed
    hops: tuple[int, ...] = ()
    """Places in the chain as it is then."""
    value: float = 0.0
    """Of a loss, a probability; of a delay, milliseconds."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run."""

    name: str
    part: int
    temperature: float
    seed: int
    acts: tuple[Act, ...]


def schedule(seed: int, runs: int) -> list[Scenario]:
    """`runs` scenarios: each kind in its turn, the rest drawn from the seed; greedy and sampled by turns."""
    random = Random(seed)  # noqa: S311 - draws scenarios, not secrets
    kinds = _kinds(random)
    return [
        Scenario(name, part, 0.8 * (run % 2), random.choice(SEEDS), acts)
        for run, (name, part, acts) in zip(range(runs), kinds, strict=False)
    ]


def _kinds(random: Random) -> Iterator[tuple[str, int, tuple[Act, ...]]]:
    """All kinds, again and again, each time with other moments."""

    def somewhere(**options: bool) -> Moment:
        return Moment(random.randint(5, TOKENS // 2), random.uniform(0, 0.15), **options)

    while True:
        for hop in range(NUM_SPANS):
            yield f"kill: hop {hop}, decoding", 1, (Act(somewhere(), "kill", (hop,)),)
            yield f"kill: hop {hop}, prefill", 1, (Act(Moment(0, random.uniform(0.02, 0.4)), "kill", (hop,)),)
            yield f"kill: hop {hop}, after a rejected draft", 1, (Act(somewhere(rejected=True), "kill", (hop,)),)
        for pair in ((0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (0, 3)):
            yield f"kill: hops {pair[0]} and {pair[1]} at once", 1, (Act(somewhere(), "kill", pair),)
        first = somewhere()
        during = Act(Moment(first.tokens, random.uniform(0.0, 0.2)), "kill substitute")
        yield "kill: the substitute during its replay", 1, (Act(first, "kill", (1,)), during)
        hops = random.sample(range(NUM_SPANS), 3)
        thrice = tuple(
            Act(Moment(20 + 20 * i, random.uniform(0, 0.1)), "kill", (hop,)) for i, hop in enumerate(hops)
        )
        yield "kill: three times", 1, thrice
        hop = random.randrange(NUM_SPANS)
        yield (
            f"hung: hop {hop} stopped for 20 s",
            2,
            (
                Act(moment := somewhere(), "stop", (hop,)),
                Act(Moment(moment.tokens, moment.seconds + 20), "continue", (hop,)),
            ),
        )
        yield (
            f"cut: hop {hop}'s host for 5 s",
            2,
            (
                Act(moment := somewhere(), "cut", (hop,)),
                Act(Moment(moment.tokens, moment.seconds + 5), "heal", (hop,)),
            ),
        )
        yield "loss: 1 %", 2, (Act(Moment(0), "loss", value=0.01),)
        yield "loss: 5 %", 2, (Act(Moment(0), "loss", value=0.05),)
        yield "delay: jumps to 200 ms", 2, (Act(somewhere(), "delay", value=200),)
        yield "bootstrap: killed and back", 2, (Act(somewhere(), "bootstrap"),)
        yield f"drain: hop {hop}", 3, (Act(somewhere(), "terminate", (hop,)),)
        yield "better peer appears", 3, (Act(somewhere(), "better"),)
