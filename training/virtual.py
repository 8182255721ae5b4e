"""Generations in virtual time: the law of speed with the project's own windows, cost and verdicts, and no swarm.

A place is a chain and a pair of models. Its text comes in stretches that are easier or harder for the draft; the draft
knows of each of its tokens how likely it stands (the chances are right, as `speculation.calibration` makes them). Its
stages are by turns busy with others. Drafts are a chain, one round is in flight, and drafting is not hidden. Pure.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from swarm.speculation.awc import MOST
from swarm.speculation.closed_form import expected_tokens
from swarm.speculation.cost import Cost
from swarm.speculation.windows import Window

_LONGEST = 0.6  # seconds of a trip over all links
_HARDER = 0.8  # by how much a stretch is easier or harder than the text on the average, in logits
_STRETCH = 30  # tokens of it
_BUSY = 15  # rounds for which the stages are busy, or are not
_BUSIEST = 0.95  # utilisation
_OTHERS = 4  # drafts of the rounds of others
_MEMORY = 0.95  # of the share of drafts that stand, for a draft that knows no more


@dataclass(frozen=True, slots=True)
class Place:
    """Seconds, but for the last three."""

    links: float
    """Of a trip over all of them."""
    start: float
    """That the stages of a trip compute for a round without any tokens, ..."""
    per_position: float
    """... and for each of its tokens."""
    per_draft: float
    acceptance: float
    """Mean chance of a draft."""
    foresight: float
    """By how much chances differ, 0..1, exclusive: how well the draft knows which of its tokens stand."""
    utilisation: float
    """Of the stages, while they are busy with others."""

    @classmethod
    def draw(cls, random: Random) -> "Place":
        """One of a broad range."""

        def between(low: float, high: float) -> float:
            return low * math.exp(random.random() * math.log(high / low))

        start = between(1e-3, 50e-3)
        links = between(0.3e-3, _LONGEST) if random.random() < 0.5 else random.uniform(0, _LONGEST)
        return cls(
            links=links,
            start=start,
            per_position=start * between(0.02, 0.5),
            per_draft=between(0.2e-3, 5e-3),
            acceptance=random.uniform(0.2, 0.98),
            foresight=random.uniform(0.05, 0.6),
            utilisation=random.uniform(0, _BUSIEST),
        )

    def compute(self, drafts: int) -> float:
        """Seconds of a round's stages."""
        return self.start + self.per_position * (1 + drafts)

    def waiting(self, is_busy: bool) -> float:
        """Seconds that a trip waits for its stages, on the average (M/M/1)."""
        return self.compute(_OTHERS) * self.utilisation / (1 - self.utilisation) if is_busy else 0.0

    def rate(self, drafts: int, acceptance: float, is_busy: bool) -> float:
        """Tokens per second to be expected, where each draft stands with the chance `acceptance`."""
        trip = self.links + self.waiting(is_busy) + self.compute(drafts)
        return expected_tokens(acceptance, drafts) / (trip + self.per_draft * drafts)


@dataclass(frozen=True, slots=True)
class Token:
    """One of the text: what becomes of a draft in its place, whoever asks, as under the rule `match`."""

    chance: float
    """That the draft is right, as the draft knows it."""
    is_right: bool
    acceptance: float
    """Mean chance in this stretch of the text."""


def write(place: Place, length: int, random: Random) -> list[Token]:
    """A text."""
    tokens, spread = [], 1 / place.foresight - 1
    middle = math.log(place.acceptance / (1 - place.acceptance))
    mean = 0.0
    for i in range(length):
        if i == 0 or random.random() < 1 / _STRETCH:
            mean = 1 / (1 + math.exp(-middle - random.choice((-_HARDER, _HARDER))))
        chance = random.betavariate(mean * spread, (1 - mean) * spread)
        tokens.append(Token(chance, random.random() < chance, mean))
    return tokens


@dataclass(frozen=True, slots=True)
class Round:
    """What became of one, and how it is there that it ends."""

    tokens: int
    """That were committed."""
    seconds: float
    acceptance: float
    """Mean chance of the drafts that would come next."""
    is_busy: bool
    """Whether the stages are, with others."""


def generate(
    place: Place, text: Sequence[Token], window: Window, cost: Cost, random: Random, *, is_blind: bool = False
) -> Iterator[Round]:
    """The rounds of one generation; `is_blind`: the draft knows no more than what share of its tokens stands."""
    cost.trip.announce(place.per_position)
    end, right = 0, 0.5
    is_busy = random.random() < 0.5
    while end + MOST < len(text):
        chances = [right if is_blind else token.chance for token in text[end : end + MOST]]
        known = list[float]()
        while not window.is_enough(known, known[-1] if known else 1.0) and len(known) < MOST:
            known.append((known[-1] if known else 1.0) * chances[len(known)])
            cost.note_drafting(1, place.per_draft)
        size = window.size(known)
        window.sent(size)
        accepted = next((i for i in range(size) if not text[end + i].is_right), size)
        for token in text[end : end + accepted + 1]:
            right += (1 - _MEMORY) * (token.is_right - right)
        is_idle = not is_busy or random.random() >= place.utilisation
        waiting = 0.0 if is_idle else random.expovariate(place.utilisation / place.waiting(is_busy))
        compute = place.compute(size)
        seconds = place.links + waiting + compute
        drafting = place.per_draft * len(known)
        cost.note_tokens(accepted + 1, drafting + seconds)
        cost.note_trip(1 + size, seconds, compute)
        window.judged(accepted)
        end += accepted + 1
        is_busy ^= random.random() < 1 / _BUSY
        yield Round(accepted + 1, drafting + seconds, text[min(end, len(text) - 1)].acceptance, is_busy)
