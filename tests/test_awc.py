"""AWC's window: what its network is told, what is made of its word, and that the text stays the same."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.speculation.awc import MOST, AwcWindow, Features, Perceptron
from swarm.speculation.cost import Cost
from swarm.speculation.queueing import Queueing
from tests import memory_swarm

SURE = [0.99**i for i in range(1, MOST + 1)]
Words = Callable[[Features], float]


def known_cost() -> Cost:
    """Of a chain with 100 ms of links."""
    cost = Cost()
    cost.note_trip(5, 0.11, 0.01)
    cost.note_tokens(3, 0.11)
    return cost


def says(*words: float) -> Words:
    """A network that says this, one word after the other, the last one for ever."""
    waiting = itertools.chain(words, itertools.repeat(words[-1]))
    return lambda _: next(waiting)


def windows_of(window: AwcWindow, rounds: int, chances: Sequence[float] = SURE) -> list[int]:
    """What is sent in these rounds, all of which stands."""
    sizes = []
    for _ in range(rounds):
        sizes.append(window.size(chances))
        window.sent(sizes[-1])
        window.judged(sizes[-1])
    return sizes


def test_what_the_network_says_is_smoothed_and_stays_within_its_bounds() -> None:
    assert windows_of(AwcWindow(known_cost(), says(4, 8)), 6) == [4, 6, 7, 7, 7, 8]  # each a step of 0.4 of the way
    assert windows_of(AwcWindow(known_cost(), says(4, 1e9)), 6) == [4, 7, 9, 10, 11, 11]
    assert windows_of(AwcWindow(known_cost(), says(4, 0.6)), 8) == [4, 3, 2, 2, 1, 1, 1, 1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.lists(st.floats(0, 1), max_size=20))
def test_never_more_than_twelve_and_never_more_than_there_are(words: list[float], chances: list[float]) -> None:
    for size in windows_of(AwcWindow(known_cost(), says(*words)), 25, chances):
        assert 0 <= size <= min(MOST, len(chances))


def test_two_strikes_and_there_are_no_drafts_until_the_network_wants_some_again() -> None:
    words = says(4, 0, 5, 0, 0, 0, 6, 6)
    assert windows_of(AwcWindow(known_cost(), words), 8) == [4, 3, 4, 3, 0, 0, 3, 4]


def test_while_none_are_sent_one_is_made_for_its_chance() -> None:
    window = AwcWindow(known_cost(), says(4, 0))
    assert not window.is_enough([0.9] * 3, 0.8)
    assert window.is_enough([0.9] * 4, 0.8)
    windows_of(window, 2)
    assert not window.is_enough([], 1.0)
    assert window.is_enough([0.9], 0.8)
    for promise, acceptance in ((0.1, 0.1), (0.95, 0.95)):
        windows_of(window, 100, [promise])
        assert window.features.acceptance == pytest.approx(acceptance, abs=0.01)


def test_the_first_window_is_of_four_unless_the_chain_is_known() -> None:
    assert windows_of(AwcWindow(Cost(), says(9)), 3) == [4, 4, 4]
    assert windows_of(AwcWindow(known_cost(), says(9)), 1) == [9]


def test_features_are_those_of_the_verdicts() -> None:
    cost = Cost()
    window = AwcWindow(cost, says(4))
    for accepted, waiting in [(4, 0.0), (0, 0.02), (2, 0.0), (4, 0.02)] * 20:
        cost.note_tokens(accepted + 1, 0.13)
        cost.note_trip(5, 0.1 + 0.01 + waiting, 0.01)
        window.sent(4)
        window.judged(accepted)
    features = window.features
    assert features.acceptance == pytest.approx(10 / 12, abs=0.02)  # of 4, 0 + 1, 2 + 1, 4
    assert features.links == pytest.approx(0.1)
    assert features.utilisation == pytest.approx(0.5, abs=0.05)  # as much waiting as compute
    assert features.token_seconds == pytest.approx(0.13 / 3.5, rel=0.1)
    assert features.window == 4


def test_a_draft_that_the_target_did_not_come_to_is_not_judged() -> None:
    shares = []
    for size in (1, 4, 12):  # each draft stands with the same chance, however many there are
        chance, window = random.Random(5), AwcWindow(Cost(), says(4))
        found = []
        for _ in range(3000):
            accepted = next((i for i in range(size) if chance.random() > 0.7), size)
            window.sent(size)
            window.judged(accepted)
            found.append(window.features.acceptance)
        shares.append(sum(found) / len(found))
    assert shares == pytest.approx([0.7] * 3, abs=0.04)


def test_an_idle_chain_waits_for_nobody_and_a_busy_one_as_its_queue_has_it() -> None:
    chance = random.Random(1)
    for busy in (0.0, 0.3, 0.7):
        queueing, found = Queueing(), []
        for _ in range(4000):
            waits = chance.random() < busy  # M/M/1: as often as the server is busy, and for so long
            waiting = chance.expovariate((1 - busy) / 0.01) if waits else 0.0
            queueing.note(0.05 + waiting + 0.01, 0.01)
            found.append(queueing.utilisation)
        assert queueing.links == pytest.approx(0.05)
        assert sum(found) / len(found) == pytest.approx(busy, abs=0.07)


def test_links_that_became_longer_are_no_queue_for_long() -> None:
    queueing = Queueing()
    for links in [0.02] * 50 + [0.2] * 100:
        queueing.note(links + 0.01, 0.01)
    assert (queueing.links, queueing.utilisation) == (pytest.approx(0.2), pytest.approx(0, abs=0.02))


def test_the_packaged_network_sends_more_where_links_are_long_and_drafts_good() -> None:
    network = Perceptron.load()

    def drafts(acceptance: float, links: float, seconds: float) -> float:
        return network(Features(0.0, acceptance, links, seconds, 4))

    assert drafts(0.9, 0.5, 0.13) > drafts(0.9, 0.005, 0.01) + 2
    assert drafts(0.95, 0.1, 0.03) > drafts(0.6, 0.1, 0.05) + 2 > drafts(0.2, 0.005, 0.1) + 3


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_text_is_that_of_any_other_window(
    temperature: float, target: Path, draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:2", "2:4"], tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft)) as model,
        ):
            options = {"max_new_tokens": 40, "seed": 3, "temperature": temperature}
            plain = await model.generate([5, 6, 7], window=0, **options)
            for tree, in_flight in ((False, 1), (True, 1), (True, "auto")):
                result = await model.generate([5, 6, 7], window="awc", tree=tree, in_flight=in_flight, **options)
                assert result.token_ids == plain.token_ids
                assert result.drafted > 0
                assert in_flight != 1 or result.drafted <= MOST * result.rounds
            for words, least, most in ((12.0, 4.5, 12.0), (0.0, 0.0, 2.0)):  # its network has the say
                monkeypatch.setattr(Perceptron, "load", lambda words=words: Perceptron((), (words,)))
                result = await model.generate([5, 6, 7], window="awc", in_flight=1, **options)
                assert result.token_ids == plain.token_ids
                assert least <= result.drafted / result.rounds <= most

    asyncio.run(run())
