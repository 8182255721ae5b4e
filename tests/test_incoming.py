"""How many streams others may hold open."""

from __future__ import annotations

from contextlib import ExitStack

from swarm.incoming import IncomingStreams


def test_one_node_has_so_many_streams_and_all_together_so_many() -> None:
    incoming = IncomingStreams(max_streams=5, max_client_streams=3)
    with ExitStack() as eve, ExitStack() as others:
        assert [eve.enter_context(incoming.taken_by("eve")) for _ in range(5)] == [True] * 3 + [False] * 2
        assert [others.enter_context(incoming.taken_by(f"{i}")) for i in range(3)] == [True, True, False]
    with ExitStack() as again:
        assert all(again.enter_context(incoming.taken_by("eve")) for _ in range(3))
    assert not incoming._open  # nobody is remembered


def test_a_stream_that_ends_in_an_error_gives_its_place_back() -> None:
    incoming = IncomingStreams(max_streams=1)
    try:
        with incoming.taken_by("one"):
            raise ConnectionError
    except ConnectionError:
        pass
    with incoming.taken_by("two") as is_within_limits:
        assert is_within_limits
