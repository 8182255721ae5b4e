"""Train AWC's network, and compare it with other windows: `python -m training.windows`, half a minute on one core.

It learns in generations in virtual time (`training/virtual.py`), at places of a broad range, with windows that have
nothing to do with the place. For each round it is told what every window would bring, in tokens per second, and learns
to lose as little as it can against the best. Then all windows generate the same texts at places that it has not seen.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import geometric_mean

import torch

from swarm.speculation.awc import MOST, WEIGHTS, AwcWindow, Features, Perceptron
from swarm.speculation.cost import Cost
from swarm.speculation.overlap import Overlap
from swarm.speculation.windows import BestWindow, FixedWindow, Window
from training.virtual import Place, generate, write

TRAINED, HELD_OUT = 1, 2  # seeds
NUM_PLACES = 1500  # to learn at
NUM_HELD_OUT = 300
TOKENS = 160  # of a text
STATIC = range(MOST + 1)
_HIDDEN = 16  # units
_BATCH = 2048
_PACE = 0.01  # of learning, at first
_EXPLORED = 8  # rounds for which a window that is learnt from stays about the same


@dataclass(frozen=True, slots=True)
class Samples:
    """What rounds were like, and what windows would have brought in them."""

    features: torch.Tensor
    """[rounds, 5]"""
    rates: torch.Tensor
    """[rounds, MOST + 1]: tokens per second with so many drafts, in those of the best."""

    def lost(self, drafts: torch.Tensor) -> torch.Tensor:
        """By windows [rounds], of the rate of the best, a mean share; between two whole windows it is in between."""
        drafts = drafts.clamp(0, MOST)
        below = drafts.detach().floor().clamp(max=MOST - 1).long()[:, None]
        part = drafts - below[:, 0]
        low, high = (self.rates.gather(1, at)[:, 0] for at in (below, below + 1))
        return 1 - (low + part * (high - low)).mean()


def sample(num_places: int, seed: int, tokens: int = TOKENS) -> Samples:
    """Of generations at as many places, with windows that wander by chance."""
    random = Random(seed)  # noqa: S311 - draws places, not secrets
    features, rates = list[tuple[float, ...]](), list[list[float]]()
    for _ in range(num_places):
        place, cost, explorer = Place.draw(random), Cost(), _Explorer(random)
        window = AwcWindow(cost, explorer)
        for round in generate(place, write(place, tokens, random), window, cost, random):
            found = [place.rate(drafts, round.acceptance, round.is_busy) for drafts in STATIC]
            features.append(explorer.told[-1].scaled())
            rates.append([rate / max(found) for rate in found])
    return Samples(torch.tensor(features), torch.tensor(rates))


class _Explorer:
    """Says any number of drafts, and another one now and then."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._drafts = 0.0
        self.told = list[Features]()

    def __call__(self, features: Features) -> float:
        self.told.append(features)
        if not self._drafts or self._random.random() < 1 / _EXPLORED:
            self._drafts = self._random.uniform(0, MOST)
        return self._drafts


def train(samples: Samples, steps: int = 4000, seed: int = TRAINED) -> Perceptron:
    """The network that loses least."""
    chance = torch.Generator().manual_seed(seed)
    hidden = torch.nn.Parameter(torch.randn(_HIDDEN, samples.features.shape[1] + 1, generator=chance) / 2)
    out = torch.nn.Parameter(torch.cat([torch.randn(_HIDDEN, generator=chance), torch.tensor([4.0])]))
    optimiser = torch.optim.Adam([hidden, out], _PACE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        chosen = torch.randint(len(samples.features), (_BATCH,), generator=chance)
        batch = Samples(samples.features[chosen], samples.rates[chosen])
        optimiser.zero_grad()
        batch.lost(_run(hidden, out, batch.features)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    rows = [tuple(round(weight, 4) for weight in row) for row in hidden.tolist()]
    return Perceptron(tuple(rows), tuple(round(weight, 4) for weight in out.tolist()))


def _run(hidden: torch.Tensor, out: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """What a network says [rounds]."""
    units = torch.tanh(features @ hidden[:, :-1].T + hidden[:, -1])
    return units @ out[:-1] + out[-1]


def loss(network: Perceptron, samples: Samples) -> float:
    """What it loses by its own word, neither smoothed nor kept up by a first strike."""
    drafts = _run(torch.tensor(network.hidden), torch.tensor(network.out), samples.features)
    return float(samples.lost(drafts.round()))


def static_loss(drafts: int, samples: Samples) -> float:
    """What a window loses that is always the same."""
    return float(samples.lost(torch.full(samples.features.shape[:1], float(drafts))))


def speeds(make: Callable[[Cost], Window], num_places: int, *, is_blind: bool = False) -> list[float]:
    """Tokens per second of a window at each held-out place, from a cost that knows nothing yet."""
    random, found = Random(HELD_OUT), list[float]()  # noqa: S311
    for _ in range(num_places):
        place = Place.draw(random)
        text, cost = write(place, TOKENS, random), Cost()
        course = Random(random.random())  # noqa: S311 - of the queues, the same for all windows
        rounds = list(generate(place, text, make(cost), cost, course, is_blind=is_blind))
        found.append(sum(round.tokens for round in rounds) / sum(round.seconds for round in rounds))
    return found


def compare(network: Perceptron, num_places: int) -> dict[str, list[float]]:
    """By window, its speeds. `auto` has the limit of AWC; `auto, blind` knows of all drafts the same chance."""

    def auto(cost: Cost) -> Window:
        return BestWindow(cost, MOST, Overlap(cost, 1))

    static = {f"static {drafts}": speeds(partial(_static, drafts), num_places) for drafts in STATIC}
    return static | {
        "awc": speeds(lambda cost: AwcWindow(cost, network), num_places),
        "auto, blind": speeds(auto, num_places, is_blind=True),
        "auto": speeds(auto, num_places),
    }


def _static(drafts: int, _: Cost) -> Window:
    return FixedWindow(drafts)


def against(speeds: Sequence[float], others: Sequence[float]) -> float:
    """How many times as fast, geometric mean over the places."""
    return geometric_mean(one / other for one, other in zip(speeds, others, strict=True))


def main() -> None:
    """Train, write the weights, and print what they are worth."""
    options = _options()
    torch.set_num_threads(1)
    network = train(sample(NUM_PLACES, TRAINED))
    held_out = sample(NUM_HELD_OUT, HELD_OUT)
    losses = {"awc": loss(network, held_out)} | {f"static {n}": static_loss(n, held_out) for n in (4, 8)}
    options.out.write_text(json.dumps({**asdict(network), "held_out_loss": round(losses["awc"], 4)}) + "\n")
    print("lost against the best window of each round, held out:")
    for name, lost in losses.items():
        print(f"  {name:12} {lost:6.1%}")
    found = compare(network, NUM_HELD_OUT)
    best = [max(at) for at in zip(*(found[f"static {n}"] for n in STATIC), strict=True)]
    print(
        f"whole generations at {NUM_HELD_OUT} held-out places, against static 4 and the best static window of each:"
    )
    for name in ("static 0", "static 4", "static 8", "awc", "auto, blind", "auto"):
        print(f"  {name:12} {against(found[name], found['static 4']):6.3f} x {against(found[name], best):6.3f} x")
    print(f"auto against awc: {against(found['auto'], found['awc']):.3f} x")
    print(f"blind: {against(found['auto, blind'], found['awc']):.3f} x")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the weights go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
