"""What a client puts on the wire for a text, and where a text ends."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.loop import Context
from client.rounds import prefill_rounds
from swarm.codec import decode, encode
from swarm.wire import MAX_ROUND_TOKENS

SESSION = b"s" * 16

tokens = st.lists(st.integers(0, 1000), min_size=1, max_size=200)


@settings(max_examples=400, deadline=None)
@given(tokens, st.integers(1, 60), st.integers(0, 100), st.data())
def test_prefill_is_the_text_in_order_without_its_newest_token(
    text: list[int], chunk: int, number: int, data: st.DataObject
) -> None:
    cached = data.draw(st.integers(0, len(text)))
    rounds = prefill_rounds(SESSION, number, text, cached, chunk)
    assert [token for round in rounds for token in round.tokens] == text[cached:-1]
    assert all(round.number == number for round in rounds)
    assert len(rounds) == -(-len(text[cached:-1]) // chunk)
    assert all(round.position == cached + i * chunk for i, round in enumerate(rounds))
    assert all(round.session == SESSION and not round.judged and not round.num_drafts for round in rounds)
    assert [decode(encode(round)) for round in rounds] == rounds


def test_decoding_needs_no_prefill() -> None:
    assert prefill_rounds(SESSION, 7, [1, 2, 3], 2, 512) == []


def test_longest_prompt_fits_the_largest_rounds() -> None:
    rounds = prefill_rounds(SESSION, 0, [1] * (MAX_ROUND_TOKENS + 3), 0, MAX_ROUND_TOKENS)
    assert [len(round.tokens) for round in rounds] == [MAX_ROUND_TOKENS, 2]


def context(prompt: int = 3, max_new: int = 10, max_positions: int = 100, eos: tuple[int, ...] = (0,)) -> Context:
    return Context([9] * prompt, prompt, max_new, max_positions, frozenset(eos))


def test_committed_tokens_become_the_text() -> None:
    text = context()
    assert text.commit([1, 2]) == [1, 2]
    assert text.commit([3]) == [3]
    assert text.tokens == [9, 9, 9, 1, 2, 3]
    assert text.new_tokens == [1, 2, 3]
    assert text.room == 7


@pytest.mark.parametrize(
    ("verdict", "taken"), [([0], [0]), ([1, 0], [1, 0]), ([1, 7, 2, 0], [1, 7]), ([0, 7], [0])], ids=str
)
def test_text_ends_with_the_first_end_token(verdict: list[int], taken: list[int]) -> None:
    text = context(eos=(0, 7))
    assert text.commit(verdict) == taken
    assert text.ended
    assert text.room == 0
    assert text.commit([1, 2]) == []
    assert text.new_tokens == taken


def test_end_token_in_the_prompt_ends_nothing() -> None:
    text = Context([0, 0], 2, 10, 100, frozenset([0]))
    assert text.room == 10
    assert text.commit([5]) == [5]


def test_text_ends_at_max_new_tokens() -> None:
    text = context(max_new=4)
    assert text.commit([1, 2, 3]) == [1, 2, 3]
    assert text.room == 1
    assert text.commit([4, 5, 6]) == [4]
    assert text.room == 0
    assert text.commit([7]) == []
    assert not text.ended


def test_end_token_beyond_max_new_tokens_does_not_count() -> None:
    text = context(max_new=1)
    assert text.commit([1, 0]) == [1]
    assert not text.ended


def test_text_ends_at_the_end_of_the_context() -> None:
    text = context(prompt=8, max_new=50, max_positions=10)
    assert text.room == 2
    assert text.commit([1, 2, 3]) == [1, 2]
    assert len(text.tokens) == 10
    assert text.room == 0


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 12),
    st.integers(9, 16),
    st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6), max_size=8),
)
def test_any_verdicts_keep_the_text_within_its_limits(
    prompt: int, max_new: int, max_positions: int, verdicts: list[list[int]]
) -> None:
    text = context(prompt, max_new, max_positions)
    for verdict in verdicts:
        room = text.room
        taken = text.commit(verdict)
        assert taken == verdict[: len(taken)]
        assert len(taken) <= room
        assert text.room in (0, room - len(taken))
    everything = [token for verdict in verdicts for token in verdict][: min(max_new, max_positions - prompt)]
    end = everything.index(0) + 1 if 0 in everything else len(everything)
    assert text.new_tokens == everything[:end]
    assert text.ended == (0 in everything)
