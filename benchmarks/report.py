"""The benchmark's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from benchmarks import agreement, evidence, windows
from benchmarks.figures import Trips
from benchmarks.grid import SETTINGS, Cell, Place
from benchmarks.petals import Row


def one_line(cell: Cell) -> str:
    """Progress, while the next cell runs."""
    return (
        f"{_where(cell.place)}, T {cell.place.temperature:g}, {cell.setting}: {cell.tokens_per_second:.1f} tokens/s"
    )


def grid_tables(cells: Sequence[Cell]) -> Iterator[Table]:
    """A table for each number of peers and temperature: a place a line, a setting a column, as times plain decoding."""
    for peers, temperature in dict.fromkeys((one.place.peers, one.place.temperature) for one in cells):
        of_table = [one for one in cells if (one.place.peers, one.place.temperature) == (peers, temperature)]
        table = _table(
            f"{peers} peers, T {temperature:g}: tokens/s, and times that",
            "links",
            *SETTINGS,
            "tokens a verdict",
            "drafts",
            "wait ms",
            "bytes a token",
        )
        for place in dict.fromkeys(one.place for one in of_table):
            by_setting = {one.setting: one for one in of_table if one.place == place}
            plain, auto = by_setting["plain"], by_setting["auto"]
            table.add_row(
                _where(place),
                f"{plain.tokens_per_second:.1f}",
                *(
                    f"{by_setting[name].tokens_per_second / plain.tokens_per_second:.2f}"
                    for name in SETTINGS
                    if name != "plain"
                ),
                f"{auto.per_verdict:.2f}",
                f"{auto.drafted:.1f}",
                f"{auto.trip_ms:.1f}",
                f"{auto.bytes_per_token:.0f}",
            )
        yield table


def places(found: Mapping[str, Mapping[str, float]]) -> Table:
    """Where drafts were made, and how fast it was."""
    table = _table("25 ms, T 0: where drafts are made", "drafter of", "tokens/s", "texts that a peer drafted")
    for name, figures in found.items():
        table.add_row(name, f"{figures['tokens_per_second']:.1f}", f"{100 * figures['drafted_at_a_peer']:.0f} %")
    return table


def of_windows(cells: Sequence[Cell]) -> Table:
    """A place a line; tokens/s of each setting, in those of the first, with the drafts that it sent for a verdict."""
    first, *others = windows.SETTINGS
    table = _table("chains: tokens/s, times that, and drafts a verdict", "links", "T", first, *others)
    for place in dict.fromkeys(one.place for one in cells):
        at = {one.setting: one for one in cells if one.place == place}
        table.add_row(
            _where(place),
            f"{place.temperature:g}",
            f"{at[first].tokens_per_second:.1f}",
            *(
                f"{at[n].tokens_per_second / at[first].tokens_per_second:.2f} x, {at[n].drafted:.1f}"
                for n in others
            ),
        )
    table.add_row("all", "", "", *(f"{windows.against(cells, name, first):.3f} x" for name in others))
    return table


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


def evidence_line(cell: evidence.Cell) -> str:
    """Progress, while the next cell runs."""
    ladder = ", ".join(f"{step.window}: {cell.times(step):.2f}" for step in cell.ladder)
    return f"K {_size(cell.k)}, {cell.uplink_mbit:g} Mbit/s, times plain by window: {ladder}"


def evidence_table(cells: Sequence[evidence.Cell]) -> Table:
    """A line for each K and uplink."""
    table = _table(
        f"rule rejection, chains, {len(evidence.SPANS)} peers, {evidence.DELAY_MS:g} ms, T {evidence.TEMPERATURE:g}",
        "K",
        "uplink Mbit/s",
        "bytes a draft",
        "acceptance a",
        "L",
        "fixed / plain",
        "plain, tokens/s",
        "closed form's window",
        "x plain",
        "best window",
        "x plain",
        "slower than the best",
        "error of a time",
        "best over whole texts",
    )
    for cell in cells:
        error = max(step.error / step.seconds for step in (cell.best, cell.at_predicted))
        table.add_row(
            _size(cell.k),
            f"{cell.uplink_mbit:g}",
            f"{cell.evidence_bytes:.0f}",
            f"{cell.pilot.acceptance:.3f}",
            f"{cell.pilot.draft_cost:.3f}",
            f"{cell.pilot.fixed:.2f}",
            f"{cell.ladder[0].speed:.1f}",
            str(cell.predicted),
            f"{cell.times(cell.at_predicted):.2f}",
            str(cell.best.window),
            f"{cell.times(cell.best):.2f}",
            f"{100 * cell.lag:.1f} %",
            f"{100 * error:.1f} %",
            str(cell.best_raw.window),
        )
    return table


def agreement_table(rows: Sequence[agreement.Row]) -> Table:
    """A line for each temperature and kind of prompt."""
    table = _table(
        "agreement of draft and target, embedded pair, along the target's own texts",
        "T",
        "prompts",
        "positions",
        "1 - TV",
        "shared noise",
        "as expected of it",
        "noise of their own",
    )
    for row in rows:
        shares = (row.overlap, row.shared, row.expected, row.apart)
        table.add_row(f"{row.temperature:g}", row.kind, str(row.positions), *(f"{share:.3f}" for share in shares))
    return table


def _size(k: int) -> str:
    return "full" if k == evidence.FULL else str(k)


def loopback(trips: Trips, hops: int) -> str:
    """What a hop costs beyond its compute."""
    beyond = trips.trip_ms - trips.compute_ms
    return (
        f"loopback, plain: {trips.tokens_per_second:.1f} tokens/s, trip {trips.trip_ms:.2f} ms, "
        f"compute {trips.compute_ms:.2f} ms, beyond it {beyond / hops:.2f} ms per hop"
    )


def _where(place: Place) -> str:
    rate = "" if place.rate_mbit is None else f", {place.rate_mbit:g} Mbit/s"
    return f"{place.delay_ms:g} ms{rate}"


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
