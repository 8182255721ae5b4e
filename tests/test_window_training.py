"""How AWC's network is trained, and what comes of it: a model of generations in virtual time, and losses held out."""

from __future__ import annotations

import json
import random

import pytest

from swarm.speculation.awc import MOST, WEIGHTS, AwcWindow, Perceptron
from swarm.speculation.closed_form import expected_tokens
from swarm.speculation.cost import Cost
from swarm.speculation.windows import FixedWindow
from training.virtual import Place, Token, generate, write
from training.windows import HELD_OUT, NUM_HELD_OUT, TRAINED, against, compare, loss, sample, static_loss, train

PLACE = Place(
    links=0.05,
    start=0.01,
    per_position=0.001,
    per_draft=0.002,
    acceptance=0.7,
    foresight=0.3,
    utilisation=0.6,
)


@pytest.mark.parametrize("drafts", [0, 3, MOST])
def test_a_generation_in_virtual_time_is_as_fast_as_the_law_says(drafts: int) -> None:
    chance = random.Random(2)
    text = [Token(0.7, chance.random() < 0.7, 0.7) for _ in range(60_000)]
    rounds = list(generate(PLACE, text, FixedWindow(drafts), Cost(), chance))
    tokens, seconds = sum(one.tokens for one in rounds), sum(one.seconds for one in rounds)
    assert tokens / len(rounds) == pytest.approx(expected_tokens(0.7, drafts), rel=0.03)
    waiting = PLACE.waiting(is_busy=True) * sum(one.is_busy for one in rounds) / len(rounds)
    trip = 0.05 + 0.01 + 0.001 * (1 + drafts) + 0.002 * drafts + waiting
    assert seconds / len(rounds) == pytest.approx(trip, rel=0.03)
    shares = [PLACE.rate(drafts, 0.7, is_busy) for is_busy in (False, True)]
    assert shares[1] < tokens / seconds < shares[0]


def test_a_text_is_as_hard_as_its_place_says_and_its_chances_are_right() -> None:
    text = write(PLACE, 60_000, random.Random(1))
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
        of_bin = [token for token in text if low <= token.chance < high]
        assert len(of_bin) > 1000
        right = sum(token.is_right for token in of_bin) / len(of_bin)
        assert right == pytest.approx(sum(token.chance for token in of_bin) / len(of_bin), abs=0.02)
    assert {round(token.acceptance, 2) for token in text} == {0.51, 0.84}
    assert sum(token.is_right for token in text) / len(text) == pytest.approx(0.675, abs=0.03)


def test_training_loses_less_than_a_window_that_is_always_the_same() -> None:
    held_out = sample(60, HELD_OUT)
    lost = loss(train(sample(150, TRAINED), steps=400), held_out)
    assert lost < 0.6 * min(static_loss(drafts, held_out) for drafts in range(MOST + 1))


def test_the_packaged_network_is_the_one_that_training_speaks_of() -> None:
    held_out = sample(NUM_HELD_OUT, HELD_OUT)
    lost = loss(Perceptron.load(), held_out)
    assert lost == pytest.approx(json.loads(WEIGHTS.read_text())["held_out_loss"], abs=2e-4)
    assert lost < 0.4 * static_loss(4, held_out)


def test_the_model_of_cost_is_as_good_as_the_network_and_better_with_the_chances_of_the_drafts() -> None:
    found = compare(Perceptron.load(), 80)
    assert against(found["awc"], found["static 4"]) > 1.05
    assert against(found["auto, blind"], found["awc"]) > 0.98
    assert against(found["auto"], found["awc"]) > 1.02


def test_the_network_leads_down_to_none_and_back_up() -> None:
    place = Place(0.001, 0.01, 0.01, 0.005, 0.5, 0.3, 0.0)  # compute is all that a trip is
    hard, easy = ([Token(chance, chance > 0.5, chance) for _ in range(200)] for chance in (0.05, 0.98))
    cost = Cost()
    window = AwcWindow(cost)
    sizes = [window.wanted for _ in generate(place, hard + easy, window, cost, random.Random(1))]
    assert set(sizes[50:150]) == {0}
    assert max(sizes[-3:]) > 1
