"""The log of what was passed on: what is passed on again is what was, byte by byte, and the budget is kept."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from peer.sent import CHUNK, Sent, SentStore
from swarm.wire import Round

SESSION = b"s" * 16
ROW = 4


def rows_of(tokens: tuple[int, ...], position: int) -> bytes:
    """A row for each token that tells where it stands."""
    return b"".join(bytes([token % 256, (position + i) % 256, 7, 7]) for i, token in enumerate(tokens))


def kept(log: Sent, number: int, position: int, tokens: tuple[int, ...], num_drafts: int = 0) -> Round:
    round = Round(SESSION, number, position, tokens, num_drafts, judged=num_drafts > 0)
    log.keep(round, rows_of(tokens, position), (0.5,))
    return round


def test_the_newest_round_is_passed_on_as_it_was_and_the_text_before_it_in_chunks() -> None:
    log = Sent()
    text = tuple(range(300))
    for start in range(0, 300, 7):
        kept(log, 1, start, text[start : start + 7])
    newest = kept(log, 2, 298, (9, 8, 7), num_drafts=2)
    *chunks, last = log.since(0, 512)
    assert [len(round.tokens) for round, *_ in chunks] == [CHUNK, CHUNK, 298 - 2 * CHUNK]
    assert [token for round, *_ in chunks for token in round.tokens] == list(text[:298])
    assert b"".join(rows for _, rows, _ in chunks) == rows_of(text[:298], 0)
    assert all((round.number, round.judged, round.num_drafts) == (2, False, 0) for round, *_ in chunks)
    assert [round.continues for round, *_ in chunks] == [False, True, True]
    assert last == (replace(newest, continues=True), rows_of((9, 8, 7), 298), (0.5,))


def test_of_a_tree_the_trunk_is_kept_as_text_and_the_branches_as_long_as_the_round_is_the_newest() -> None:
    log = Sent()
    tree = Round(SESSION, 2, 3, (1, 2, 3, 4, 5), 3, True, (-1, -1, 1))
    rows = rows_of(tree.tokens, 3)
    kept(log, 1, 0, (7, 8, 9))
    log.keep(tree, rows, (0.5,))
    assert (log.end, log.num_bytes) == (6, 3 * ROW + len(rows))
    assert list(log.since(3, 512)) == [(tree, rows, (0.5,))]
    assert list(log.since(0, 512))[-1] == (replace(tree, continues=True), rows, (0.5,))
    assert list(log.since(5, 512)) == [(Round(SESSION, 2, 5, (3,), 0, False), rows[2 * ROW : 3 * ROW], (0.5,))]
    kept(log, 3, 5, (6, 7))
    assert (log.end, log.num_bytes) == (7, 7 * ROW)
    assert next(iter(log.text(3, 9, 512)))[1] == rows[: 2 * ROW] + rows_of((6, 7), 5)


def test_a_log_that_does_not_reach_back_says_nothing() -> None:
    log = Sent()
    kept(log, 0, 0, (1, 2, 3))
    log.drop()
    assert (log.first, log.num_bytes, list(log.since(0, 512)), list(log.since(3, 512))) == (3, 0, [], [])
    newest = kept(log, 1, 3, (4,))
    assert list(log.since(0, 512)) == []
    assert list(log.since(3, 512)) == [(newest, rows_of((4,), 3), (0.5,))]
    kept(log, 1, 0, (5, 6))  # it computes the text again
    assert (log.first, log.end) == (0, 2)


def test_a_next_peer_that_takes_less_gets_less_at_a_time() -> None:
    log = Sent()
    for start in range(0, 30, 10):
        newest = kept(log, 1, start, tuple(range(10)))
    assert [len(round.tokens) for round, *_ in log.since(0, 16)] == [16, 4, 10]
    assert list(log.since(0, 16))[-1][0] == replace(newest, continues=True)
    assert [len(round.tokens) for round, *_ in log.since(3, 6)] == [6, 6, 6, 6, 3]  # all of the text


def test_of_a_round_that_is_too_long_for_the_next_peer_the_text_is_passed_on_again() -> None:
    log = Sent()
    kept(log, 1, 0, tuple(range(10)))
    kept(log, 2, 10, tuple(range(8)), num_drafts=5)
    again = [*log.since(4, 4)]
    assert [(round.position, len(round.tokens), round.judged) for round, *_ in again] == [
        (4, 4, False), (8, 4, False), (12, 1, False),
    ]  # fmt: skip
    assert [round.continues for round, *_ in again] == [False, True, True]


def test_of_a_round_on_which_there_is_a_verdict_only_the_text_that_stands_is_passed_on_again() -> None:
    log = Sent()
    kept(log, 1, 0, tuple(range(10)))
    kept(log, 4, 10, tuple(range(8)), num_drafts=5)
    again = [*log.since(8, 4, judged=4, settled=15)]
    assert [(round.number, round.position, len(round.tokens), round.judged) for round, *_ in again] == [
        (4, 8, 4, False), (4, 12, 3, False),
    ]  # fmt: skip
    assert list(log.since(15, 4, judged=4, settled=15)) == []
    newest = kept(log, 5, 15, (1, 2, 3), num_drafts=2)
    assert list(log.since(15, 4, judged=4, settled=15)) == [(newest, rows_of((1, 2, 3), 15), (0.5,))]


def test_what_is_passed_on_again_is_read_as_it_is_wanted_and_ends_where_the_log_is_overwritten() -> None:
    log = Sent()
    kept(log, 1, 0, tuple(range(100)))
    again = log.since(0, 16)
    assert [token for _ in range(2) for token in next(again)[0].tokens] == list(range(32))
    kept(log, 2, 40, (7,) * 80)
    rest = list(again)
    assert [(round.position, len(round.tokens)) for round, *_ in rest] == [(32, 8)]
    assert rest[0][1] == rows_of(tuple(range(32, 40)), 32)
    assert list(again) == []


def test_what_is_passed_on_again_ends_with_a_log_that_is_dropped() -> None:
    log = Sent()
    kept(log, 1, 0, tuple(range(100)))
    newest, text = log.since(0, 512), log.text(0, 100, 16)
    next(text)
    log.drop()
    assert (list(newest), list(text)) == ([], [])


def test_of_a_newest_round_that_is_followed_by_another_the_text_before_that_is_passed_on_again() -> None:
    log = Sent()
    kept(log, 1, 0, tuple(range(10)))
    kept(log, 2, 10, (1, 2, 3), num_drafts=2)
    again = log.since(5, 512)
    kept(log, 3, 12, (4,))
    assert [(round.position, round.tokens, round.number, round.judged) for round, *_ in again] == [
        (5, (5, 6, 7, 8, 9, 1, 2), 2, False),
    ]  # fmt: skip
    again = log.since(12, 512)
    kept(log, 4, 12, (5,))
    assert list(again) == []


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.lists(st.integers(0, 99), min_size=1, max_size=9)), min_size=1, max_size=20
    ),
    st.integers(0, 40),
)
def test_any_history_leaves_the_rows_of_the_text(history: list[tuple[int, list[int]]], start: int) -> None:
    log, text = Sent(), []
    for number, (wanted, tokens) in enumerate(history):
        position = min(wanted, len(text))
        kept(log, number, position, tuple(tokens))
        text = text[:position] + tokens
    assert (log.first, log.end, log.num_bytes) == (0, len(text), len(text) * ROW)
    again = list(log.since(start, 512))
    assert [token for round, *_ in again for token in round.tokens] == text[start:]
    assert b"".join(rows for _, rows, _ in again) == rows_of(tuple(text[start:]), start)
    assert all(round.number == len(history) - 1 for round, *_ in again)


def test_over_the_budget_the_longest_unused_log_goes() -> None:
    store = SentStore(10 * ROW)
    logs = [store.open(bytes([i]) * 16) for i in range(3)]

    def keep(i: int, position: int, count: int) -> None:
        tokens = (1,) * count
        store.keep(Round(bytes([i]) * 16, 0, position, tokens, 0, judged=False), rows_of(tokens, position), ())

    keep(0, 0, 4)
    keep(1, 0, 4)
    keep(0, 4, 1)
    keep(2, 0, 2)
    assert [log.first for log in logs] == [0, 4, 0]
    assert store.num_bytes == 7 * ROW
    keep(2, 2, 20)  # more than everything
    assert [log.first for log in logs] == [5, 4, 22]
    assert store.num_bytes == 0
    store.close(bytes(16))
    store.close(bytes(16))
    assert store.num_bytes == 0


def test_a_log_that_is_being_read_goes_last() -> None:
    store = SentStore(10 * ROW)
    logs = [store.open(bytes([i]) * 16) for i in range(2)]
    for i, log in enumerate(logs):
        tokens = (1,) * (4 + i)
        store.keep(Round(bytes([i]) * 16, 0, 0, tokens, 0, judged=False), rows_of(tokens, 0), ())
        if i == 0:
            again = log.since(0, 2)
    store.keep(Round(bytes([1]) * 16, 0, 5, (1, 1), 0, judged=False), rows_of((1, 1), 5), ())
    assert [log.num_bytes for log in logs] == [4 * ROW, 0]
    assert sum(len(round.tokens) for round, *_ in again) == 4


def test_over_the_budget_whoever_has_most_loses_a_log_newcomers_together() -> None:
    def keep(number: int, count: int) -> None:
        tokens = (1,) * count
        store.keep(Round(bytes([number]) * 16, 0, 0, tokens, 0, judged=False), rows_of(tokens, 0), ())

    store = SentStore(20 * ROW, is_new=lambda client: client.startswith("new"))
    clients = ["known", "known", "greedy", "new 1", "new 2", "new 3"]
    logs = [store.open(bytes([number]) * 16, client) for number, client in enumerate(clients)]
    for number, count in enumerate((1, 1, 7, 3, 4, 3)):
        keep(number, count)
    assert all(log.num_bytes for log in logs)
    keep(1, 3)  # 21 in all: of newcomers 10, and of one of them 4
    assert [log.num_bytes // ROW for log in logs] == [1, 3, 7, 3, 0, 3]
    keep(0, 5)  # 21 again: of the known clients one has 8, more than the newcomers
    assert [log.num_bytes // ROW for log in logs] == [5, 0, 7, 3, 0, 3]
