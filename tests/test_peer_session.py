"""One session's law: which rounds may run, and that a refused one leaves no trace."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from peer.session import Growing, Neighbour, Refusal, Session
from swarm.model.cache import KVCache
from swarm.model.source import ModelInfo
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from swarm.wire import Ask, Contact, Progress, Relink, Round

MODEL = ModelInfo(
    num_layers=4, hidden_size=8, vocab_size=50, max_positions=32, family="llama", config_hash="0" * 64
)
ID = b"s" * 16
FEEDER = "the peer before"
NEXT = Neighbour(Contact("next"), max_round=512)


def new_session() -> Session:
    span = Span(1, 3)
    return Session(
        id=ID,
        client="the client",
        span=span,
        source=FEEDER,
        downstream=None,
        sampling=Sampling(),
        cache=KVCache(span),
    )


def tree_at(position: int, tokens: tuple[int, ...], parents: tuple[int, ...]) -> Round:
    return Round(ID, 4, position, tokens, len(parents), judged=True, parents=parents)


def round_at(position: int, tokens: tuple[int, ...], number: int = 0, num_drafts: int = 0) -> Round:
    return Round(ID, number, position, tokens, num_drafts, judged=True)


def session_with(*tokens: int, number: int = 3) -> Session:
    session = new_session()
    admit(session, round_at(0, tokens, number))
    return session


def admit(session: Session, round: Round) -> None:
    session.admit(round, session.tree_with(round))


def state(session: Session) -> dict[str, Any]:
    content = {field.name: getattr(session, field.name) for field in fields(session)}
    return content | {"tokens": list(session.tokens), "cached": session.cache.length}


def test_what_goes_on_from_a_round_that_was_lost_is_refused_where_drafts_are_that_may_not_stand() -> None:
    session = session_with(1, 2)
    admit(session, tree_at(2, (3, 4, 5, 6), (-1, 0, 0)))  # holds 3 4 5; the verdict may be 4 6
    text = Round(ID, 5, 4, (6,), 0, judged=False)
    rest = replace(round_at(5, (7, 8), 5, num_drafts=1), continues=True)
    with pytest.raises(Refusal, match="leaves a gap"):
        session.check(rest, 1, FEEDER, MODEL)
    session.check(text, 1, FEEDER, MODEL)
    admit(session, text)
    session.check(rest, 1, FEEDER, MODEL)
    admit(session, rest)
    assert session.tokens == [1, 2, 3, 4, 6, 7, 8]


@pytest.mark.parametrize(
    ("round", "sender", "reason"),
    [
        (round_at(3, (4,), 4), "the client", "another peer"),
        (round_at(3, (4,), 4), "a stranger", "another peer"),
        (round_at(3, (4,), 2), FEEDER, "round 2 comes after round 3"),
        (round_at(4, (4,), 4), FEEDER, "gap after 3 tokens"),
        (round_at(31, (4,), 4), FEEDER, "gap after 3 tokens"),
        (round_at(3, (4,) * 30, 4), FEEDER, "context ends at 32"),
        (round_at(0, (4,) * 33, 4), FEEDER, "context ends at 32"),
        (tree_at(3, (4,) * 32, (-1, *[0] * 2, *range(2, 30))), FEEDER, "context ends at 32"),
        (round_at(3, (4, 50, 4), 4), FEEDER, "token 50 is not in the vocabulary"),
    ],
    ids=[
        "client instead of feeder",
        "stranger",
        "older round",
        "gap",
        "gap at the end",
        "beyond the context",
        "longer than the context",
        "a branch beyond the context",
        "unknown token",
    ],
)
def test_refused_round_leaves_session_unchanged(round: Round, sender: str, reason: str) -> None:
    session = session_with(1, 2, 3)
    before = state(session)
    with pytest.raises(Refusal, match=reason):
        session.check(round, 1, sender, MODEL)
    assert state(session) == before


@pytest.mark.parametrize(
    ("round", "tokens"),
    [
        (round_at(3, (4, 5), 4), [1, 2, 3, 4, 5]),
        (round_at(2, (9,), 4), [1, 2, 9]),
        (round_at(1, (8,), 4), [1, 8]),
        (round_at(0, (7, 7, 7, 7), 4), [7, 7, 7, 7]),
        (round_at(3, (4,), 3), [1, 2, 3, 4]),
        (round_at(3, (49,) * 29, 1000), [1, 2, 3, *[49] * 29]),
        (tree_at(3, (4, 5, 6, 7), (-1, -1, 0)), [1, 2, 3, 4, 5]),
        (tree_at(2, (9, 4, 5, 6, 7, 8), (-1, 0, 0, 2)), [1, 2, 9, 4, 5, 6]),
        (tree_at(3, (4,) * 60, (-1, *range(27), *[0] * 31)), [1, 2, 3, *[4] * 29]),
    ],
    ids=[
        "continues",
        "overwrites",
        "cuts back",
        "begins anew",
        "same number again",
        "fills the context",
        "keeps a tree's trunk",
        "keeps text and trunk",
        "the deepest branch fills the context",
    ],
)
def test_admitted_round_becomes_the_text_from_its_position_on(round: Round, tokens: list[int]) -> None:
    session = session_with(1, 2, 3)
    session.check(round, 1, FEEDER, MODEL)
    admit(session, round)
    assert session.tokens == tokens
    assert session.last_number == round.number


def test_repeated_round_is_taken_again_and_changes_nothing() -> None:
    session = session_with(1, 2, 3)
    again = round_at(3, (4, 5), 4)
    for _ in range(3):
        session.check(again, 1, FEEDER, MODEL)
        admit(session, again)
        assert session.tokens == [1, 2, 3, 4, 5]


def test_check_alone_changes_nothing() -> None:
    session = session_with(1, 2, 3)
    before = state(session)
    session.check(round_at(3, (4, 5), 4), 1, FEEDER, MODEL)
    assert state(session) == before


def test_states_of_other_layers_are_refused() -> None:
    session = session_with(1, 2, 3)
    before = state(session)
    with pytest.raises(Refusal, match="begins with layer 1") as refusal:
        session.check(round_at(3, (4,), 4), 2, FEEDER, MODEL)
    assert refusal.value.why == "unlawful"
    assert state(session) == before


def more(number: int, grown: int, *parents: int) -> Round:
    return Round(ID, number, 0, (7,) * len(parents), len(parents), True, parents, grown)


def session_with_a_tree() -> Session:
    """Text 1 2 3, of which 3 is the newest; drafts 4 and 5 after it, 6 after 5; that was round 4."""
    session = session_with(1, 2)
    admit(session, tree_at(2, (3, 4, 5, 6), (-1, -1, 1)))
    return session


def test_a_tree_grows_round_by_round_and_is_no_text() -> None:
    session = session_with_a_tree()
    for number, round in ((5, more(5, 3, -1, 2)), (6, more(6, 5, 4, 4, 6))):
        assert not session.is_stale(round)
        session.check(round, 1, FEEDER, MODEL)
        admit(session, round)
        assert session.last_number == number
        session.ran(round)
    assert session.tokens == [1, 2, 3, 4]
    assert session.computed == 0  # those before have not run
    assert session.tree == Growing(4, 2, 1, (-1, -1, 1, -1, 2, 4, 4, 6))
    assert session.tree.all_parents == (-1, 0, 0, 2, 0, 3, 5, 5, 7)
    assert session.tree_with(more(7, 8, 0)).slots == 2 + 1 + 9
    assert session.tree.reach == 3 + 5


@pytest.mark.parametrize(
    "round",
    [more(5, 2, -1), more(5, 4, -1), more(6, 3, -1), more(4, 3, -1)],
    ids=["of a smaller tree", "of a larger tree", "a round is missing", "it was there before"],
)
def test_more_of_another_tree_is_stale(round: Round) -> None:
    assert session_with_a_tree().is_stale(round)
    assert new_session().is_stale(round)


def test_what_another_tree_follows_is_given_up() -> None:
    session = session_with_a_tree()
    round = more(5, 3, -1)
    admit(session, round)
    assert not session.is_given_up(round)
    admit(session, round_at(3, (8,), 6, num_drafts=0))
    assert session.is_given_up(round)
    assert not session.is_given_up(tree_at(2, (3, 4, 5, 6), (-1, -1, 1)))


def test_a_round_may_come_again_after_more_of_its_tree() -> None:
    """As it does when a chain is mended."""
    session = session_with_a_tree()
    admit(session, more(5, 3, -1))
    again = tree_at(2, (3, 4, 5, 6), (-1, -1, 1))
    session.check(again, 1, FEEDER, MODEL)
    admit(session, again)
    assert session.tokens == [1, 2, 3, 4]
    assert not session.is_stale(more(5, 3, -1))
    with pytest.raises(Refusal, match="round 3 comes after round 4"):
        session.check(round_at(3, (8,), 3), 1, FEEDER, MODEL)


@pytest.mark.parametrize(
    ("round", "sender", "reason"),
    [
        (more(5, 3, -1), "the client", "fed by another"),
        (more(5, 3, 2, *range(3, 31)), FEEDER, "context ends at 32"),
    ],
    ids=["client instead of feeder", "a branch beyond the context"],
)
def test_more_of_a_tree_that_may_not_run_is_refused(round: Round, sender: str, reason: str) -> None:
    session = session_with_a_tree()
    before = state(session)
    with pytest.raises(Refusal, match=reason):
        session.check(round, 1, sender, MODEL)
    assert state(session) == before


def test_new_neighbours_must_fit_the_layers() -> None:
    session = session_with(1, 2, 3)
    before = state(session)
    for upstream, downstream in ((None, NEXT), (None, None)):
        with pytest.raises(Refusal):
            session.relink(Relink(ID, upstream, None, 3, 512), downstream, MODEL.num_layers)
        assert state(session) == before
    session.relink(Relink(ID, "another", None, 3, 512), NEXT, MODEL.num_layers)
    assert (session.source, session.downstream, session.holds) == ("another", NEXT.contact, 3)
    assert session.tokens == [1, 2, 3]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 8),
            st.integers(0, 40),
            st.lists(st.integers(0, 55), min_size=1, max_size=12),
            st.sampled_from([FEEDER, FEEDER, FEEDER, "a stranger"]),
        ),
        max_size=12,
    )
)
def test_any_history_follows_the_law(history: list[tuple[int, int, list[int], str]]) -> None:
    session = new_session()
    text: list[int] = []
    last = -1
    for number, position, tokens, sender in history:
        round = round_at(position, tuple(tokens), number)
        is_lawful = (
            sender == FEEDER
            and number >= last
            and position <= len(text)
            and position + len(tokens) <= MODEL.max_positions
            and max(tokens) < MODEL.vocab_size
        )
        if is_lawful:
            session.check(round, 1, sender, MODEL)
            admit(session, round)
            text, last = text[:position] + tokens, number
        else:
            with pytest.raises(Refusal):
                session.check(round, 1, sender, MODEL)
        assert session.tokens == text


def test_a_question_is_answered_when_the_rounds_it_waits_for_have_run() -> None:
    session = session_with(1, 2, 3)
    assert session.progress(Ask(ID, 7, 0), 50, 9) == Progress(ID, 7, 4, 3, 1, 0, 0, 50, 9)
    assert session.progress(Ask(ID, 7, 3)) is None  # it has not run
    session.ran(round_at(0, (1, 2, 3), 3))
    assert session.progress(Ask(ID, 7, 3), 53, 0) == Progress(ID, 7, 4, 3, 0, 0, 3, 53, 0)
    assert session.progress(Ask(ID, 7, 4)) is None
