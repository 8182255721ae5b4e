"""What a simulated swarm came to. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as student

from simulator.request import Record

_STEP = math.log(1.005)  # between two values that a histogram tells apart


@dataclass(frozen=True, slots=True)
class Spread:
    """Of a figure over requests."""

    mean: float
    p50: float
    p95: float
    p99: float


class Histogram:
    """Positive numbers, in as little room however many they are: half a per cent apart they count as one."""

    def __init__(self) -> None:
        self._counts = Counter[int]()
        self._sum = 0.0

    def add(self, value: float) -> None:
        """One more."""
        self._counts[round(math.log(max(value, 1e-9)) / _STEP)] += 1
        self._sum += value

    @property
    def spread(self) -> Spread:
        """Of all so far; nothing but zeros, if there are none."""
        count = self._counts.total()
        if not count:
            return Spread(0.0, 0.0, 0.0, 0.0)
        return Spread(self._sum / count, *(self._at(math.ceil(share * count)) for share in (0.5, 0.95, 0.99)))

    def _at(self, rank: int) -> float:
        """The value of this rank, the least being the first."""
        passed = 0
        for place in sorted(self._counts):
            passed += self._counts[place]
            if passed >= rank:
                return math.exp(place * _STEP)
        raise ValueError(f"rank {rank} of {passed}")


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run; seconds."""

    requests: int
    finished: int
    tokens: int
    tokens_per_second: float
    """Of all clients together, over the whole of the run."""
    request_tokens_per_second: float
    """Of a finished request, on the average, from its arrival on."""
    request_seconds: float
    """Of all finished requests, from their arrivals on, added up."""
    first_token: Spread
    """From the arrival on."""
    per_token: Spread
    """After the first verdict; of requests with more than one."""
    acceptance: float
    """Share of the drafts sent that stood."""
    tokens_per_verdict: float
    window: float
    """Drafts of a round that begins a tree, on the average."""
    windows: Mapping[int, float]
    """The same of a request's rounds from the one of this number, counted from 1, up to twice it."""
    drafting: float
    """Share of requests' time: drafting that nothing hides, ..."""
    computing: float
    """... the stages' work for rounds that begin a tree, ..."""
    links: float
    """... their links, ..."""
    waiting: float
    """... and the rest: queues, and prefill."""
    at_peers: float
    """Share of the requests that were drafted at a peer."""
    utilisation: Mapping[str, float]
    """By peer: share of the run that its stage computes."""
    reroutes: int
    stalls: Spread
    """Of requests that were rerouted: by how much disturbed trips were longer, together."""
    events: int


class Tally:
    """Adds requests up as they end."""

    def __init__(self) -> None:
        self._requests = self._finished = self._tokens = self._rounds = self._drafted = self._accepted = 0
        self._reroutes = self._at_peers = 0
        self._windows = dict[int, list[int]]()  # by round number, to a power of 2: drafts, and rounds
        self._whole = self._drafting = self._computing = self._links = self._rates = 0.0
        self._first_token, self._per_token, self._stalls = Histogram(), Histogram(), Histogram()

    def add(self, record: Record) -> None:
        """One that has ended, or that the run's end has cut off."""
        self._requests += 1
        self._tokens += record.tokens
        self._rounds += record.rounds
        self._drafted += record.drafted
        self._accepted += record.accepted
        for number, drafts in enumerate(record.windows, start=1):
            counted = self._windows.setdefault(1 << (number.bit_length() - 1), [0, 0])
            counted[0] += drafts
            counted[1] += 1
        self._at_peers += record.drafted_at is not None
        self._reroutes += record.reroutes
        if record.reroutes:
            self._stalls.add(record.stall_seconds)
        if record.first_token is not None:
            self._first_token.add(record.first_token - record.arrived)
        if record.finished is not None:
            self._add_finished(record, record.finished - record.arrived)

    def _add_finished(self, record: Record, seconds: float) -> None:
        self._finished += 1
        self._whole += seconds
        self._rates += record.tokens / seconds
        self._drafting += record.draft_seconds
        self._computing += record.compute_seconds
        self._links += record.link_seconds
        if record.finished and record.first_token is not None and record.tokens > record.first_tokens:
            self._per_token.add((record.finished - record.first_token) / (record.tokens - record.first_tokens))

    def figures(self, seconds: float, utilisation: Mapping[str, float], events: int) -> Figures:
        """Of a run of so many seconds."""
        shares = [part / (self._whole or 1.0) for part in (self._drafting, self._computing, self._links)]
        return Figures(
            requests=self._requests,
            finished=self._finished,
            tokens=self._tokens,
            tokens_per_second=self._tokens / max(seconds, 1e-9),
            request_tokens_per_second=self._rates / max(self._finished, 1),
            request_seconds=self._whole,
            first_token=self._first_token.spread,
            per_token=self._per_token.spread,
            acceptance=self._accepted / max(self._drafted, 1),
            tokens_per_verdict=self._tokens / max(self._rounds, 1),
            window=_mean(self._windows.values()),
            windows={number: _mean([counted]) for number, counted in sorted(self._windows.items())},
            at_peers=self._at_peers / max(self._requests, 1),
            drafting=shares[0],
            computing=shares[1],
            links=shares[2],
            waiting=max(1 - sum(shares), 0.0) if self._finished else 0.0,
            utilisation=utilisation,
            reroutes=self._reroutes,
            stalls=self._stalls.spread,
            events=events,
        )


def _mean(counted: Iterable[Sequence[int]]) -> float:
    """Of sums, and how many each is of."""
    found = [*counted]
    return sum(one[0] for one in found) / max(sum(one[1] for one in found), 1)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % confidence interval (Student's t); of one value, none."""
    if len(values) < 2:
        return (values[0] if values else 0.0), 0.0
    return fmean(values), float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


Value = Callable[[Figures], float]
SHOWN: Mapping[str, Value] = {
    "requests finished": lambda f: f.finished / max(f.requests, 1),
    "first token, s": lambda f: f.first_token.mean,
    "per token, mean ms": lambda f: 1e3 * f.per_token.mean,
    "p50": lambda f: 1e3 * f.per_token.p50,
    "p95": lambda f: 1e3 * f.per_token.p95,
    "p99": lambda f: 1e3 * f.per_token.p99,
    "tokens/s of a request": lambda f: f.request_tokens_per_second,
    "tokens/s of all": lambda f: f.tokens_per_second,
    "acceptance": lambda f: f.acceptance,
    "tokens a verdict": lambda f: f.tokens_per_verdict,
    "window": lambda f: f.window,
    "drafting": lambda f: f.drafting,
    "compute": lambda f: f.computing,
    "links": lambda f: f.links,
    "waiting": lambda f: f.waiting,
    "drafted at peers": lambda f: f.at_peers,
    "busiest peer": lambda f: max(f.utilisation.values(), default=0.0),
    "reroutes": lambda f: float(f.reroutes),
    "stall, s": lambda f: f.stalls.mean,
}
"""The columns of a table."""
