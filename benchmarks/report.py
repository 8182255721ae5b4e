"""The benchmark's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from benchmarks.figures import Cell
from benchmarks.petals import Row


def one_line(cell: Cell) -> str:
    """Progress, while the next cell runs."""
    return (
        f"delay {cell.delay_ms:g} ms, T {cell.temperature:g}, window {cell.window}: "
        f"{cell.tokens_per_second:.1f} tokens/s, {cell.tokens_per_trip:.2f} per trip"
    )


def embedded(cells: Sequence[Cell]) -> Iterator[Table]:
    """The embedded pair: speed, then bytes on the links."""
    table = _table(
        "embedded pair, 4 peers",
        "delay ms",
        "T",
        "window",
        "tokens/s",
        "x plain",
        "tokens/trip",
        "trip ms",
        "limit ms",
        "trip/limit",
        "draft ms",
        "repeated 8-grams",
    )
    plain = {(cell.delay_ms, cell.temperature): cell.tokens_per_second for cell in cells if cell.window == 0}
    for cell in cells:
        base = plain.get((cell.delay_ms, cell.temperature))
        table.add_row(
            f"{cell.delay_ms:g}",
            f"{cell.temperature:g}",
            str(cell.window),
            f"{cell.tokens_per_second:.1f}",
            f"{cell.tokens_per_second / base:.2f}" if base else "",
            f"{cell.tokens_per_trip:.2f}",
            f"{cell.trip_ms:.1f}",
            f"{cell.limit_ms:.1f}",
            f"{cell.over_limit:.3f}",
            f"{cell.draft_ms:.1f}",
            f"{cell.repeated:.3f}",
        )
    yield table
    last = cells[-1]
    links = _table(f"bytes per token, IP headers included (delay {last.delay_ms:g} ms)", "link", *_settings(cells))
    for link in sorted({link for cell in _of_delay(cells) for link in cell.bytes_per_token}):
        links.add_row(link, *(f"{cell.bytes_per_token.get(link, 0):.0f}" for cell in _of_delay(cells)))
    yield links


def against_petals(rows: Sequence[Row]) -> Table:
    """Ours beside Petals'."""
    table = _table(
        "random 8-layer model, its own draft, 4 peers, 128 tokens; tokens/s",
        "delay ms",
        "window",
        "specswarm",
        "Petals",
        "Petals, push mended",
        "x best Petals",
        "x one process",
    )
    for row in rows:
        published = row.petals or (0.0, 0.0)
        best = max(published)
        table.add_row(
            f"{row.delay_ms:g}",
            str(row.window) if row.window else "plain",
            f"{row.tokens_per_second:.1f}",
            *(f"{speed:.1f}" if row.petals else "" for speed in published),
            f"{row.tokens_per_second / best:.2f}" if best else "",
            f"{row.tokens_per_second / row.one_process:.2f}",
        )
    return table


def loopback(cell: Cell, hops: int) -> str:
    """What a hop costs beyond its compute."""
    beyond = cell.trip_ms - cell.compute_ms
    return (
        f"loopback, plain: {cell.tokens_per_second:.1f} tokens/s, trip {cell.trip_ms:.2f} ms, "
        f"compute {cell.compute_ms:.2f} ms, beyond it {beyond / hops:.2f} ms per hop"
    )


def _of_delay(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of the last delay at temperature 0, one for each window."""
    return [cell for cell in cells if cell.delay_ms == cells[-1].delay_ms and cell.temperature == 0]


def _settings(cells: Sequence[Cell]) -> list[str]:
    return [f"window {cell.window}" for cell in _of_delay(cells)]


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
