"""Where a new peer goes: the least-served stretch, so that peers who join one by one cover the model."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from peer.placement import coverage, place
from swarm.span import Span


def spans_within(num_layers: int) -> st.SearchStrategy[list[Span]]:
    bounds = st.lists(st.integers(0, num_layers), min_size=2, max_size=2, unique=True).map(sorted)
    return st.lists(bounds.map(lambda pair: Span(*pair)), max_size=8)


models = st.integers(1, 16).flatmap(lambda layers: st.tuples(st.just(layers), spans_within(layers)))


def test_coverage_counts_the_spans_at_each_layer() -> None:
    assert coverage(5, []) == [0, 0, 0, 0, 0]
    assert coverage(5, [Span(0, 2), Span(1, 4), Span(3, 5)]) == [1, 2, 1, 2, 1]
    assert coverage(3, [Span(1, 9), Span(7, 9)]) == [0, 1, 1]


def test_first_peer_starts_at_the_first_layer() -> None:
    assert place(8, [], 3) == Span(0, 3)


def test_peer_that_holds_more_than_the_model_takes_the_whole() -> None:
    assert place(8, [Span(0, 4)], 100) == Span(0, 8)


def test_gap_in_the_middle_is_taken() -> None:
    assert place(8, [Span(0, 3), Span(5, 8)], 2) == Span(3, 5)
    assert place(8, [Span(0, 3), Span(5, 8)], 4) == Span(1, 5)
    assert place(8, [Span(0, 3), Span(4, 8)], 1) == Span(3, 4)


def test_among_equals_the_first_is_taken() -> None:
    assert place(8, [Span(0, 8)], 3) == Span(0, 3)
    assert place(8, [Span(2, 4)], 2) == Span(0, 2)


@settings(max_examples=300, deadline=None)
@given(models, st.integers(1, 20))
def test_no_other_stretch_holds_more_of_the_least_served_layers(model: tuple[int, list[Span]], length: int) -> None:
    num_layers, spans = model
    counts, size = coverage(num_layers, spans), min(length, num_layers)
    stretches = [counts[start : start + size] for start in range(num_layers - size + 1)]
    # How many layers are served never, once, twice ...: the more of the first kind the better, then of the second.
    held = [[stretch.count(level) for level in range(len(spans) + 1)] for stretch in stretches]
    first_best = held.index(max(held))
    assert place(num_layers, spans, length) == Span(first_best, first_best + size)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 24), st.lists(st.integers(1, 24), min_size=1, max_size=24))
def test_peers_joining_one_after_another_cover_all_layers_when_enough(num_layers: int, lengths: list[int]) -> None:
    spans: list[Span] = []
    for length in lengths:
        spans.append(place(num_layers, spans, length))
    covered = sum(count > 0 for count in coverage(num_layers, spans))
    assert covered == min(num_layers, sum(lengths))


@settings(max_examples=200, deadline=None)
@given(models, st.integers(1, 16))
def test_every_joining_peer_closes_a_gap_while_there_is_one(model: tuple[int, list[Span]], length: int) -> None:
    num_layers, spans = model
    while min(coverage(num_layers, spans)) == 0:
        before = coverage(num_layers, spans).count(0)
        spans = [*spans, place(num_layers, spans, length)]
        assert coverage(num_layers, spans).count(0) < before


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4))
def test_peers_of_equal_size_serve_every_layer_equally_often(length: int, times: int, parts: int) -> None:
    num_layers = length * parts
    spans: list[Span] = []
    for _ in range(times * parts):
        spans.append(place(num_layers, spans, length))
    assert coverage(num_layers, spans) == [times] * num_layers
