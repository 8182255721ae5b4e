"""What was measured as pictures: the grid's speed over delay, the speed of each K over uplinks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from benchmarks import evidence
from benchmarks.grid import SETTINGS, Cell


def draw(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Write them into a folder; unlimited links alone, for a line needs one link. Which files were written."""
    folder.mkdir(parents=True, exist_ok=True)
    unlimited = [one for one in cells if one.place.rate_mbit is None]
    files = []
    for peers, temperature in dict.fromkeys((one.place.peers, one.place.temperature) for one in unlimited):
        of_plot = [one for one in unlimited if (one.place.peers, one.place.temperature) == (peers, temperature)]
        files.append(folder / f"speed-{peers}-peers-T{temperature:g}.png")
        _speed(of_plot, f"{peers} peers, T {temperature:g}, embedded pair", files[-1])
    return files


def _speed(cells: Sequence[Cell], title: str, file: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    plain = {one.place: one.tokens_per_second for one in cells if one.setting == "plain"}
    for setting in SETTINGS:
        of_line = sorted((one for one in cells if one.setting == setting), key=lambda one: one.place.delay_ms)
        times = [one.tokens_per_second / plain[one.place] for one in of_line]
        axes.plot([one.place.delay_ms for one in of_line], times, marker="o", label=setting)
    axes.set(title=title, xlabel="one-way delay, ms", ylabel="tokens/s against plain decoding", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def draw_evidence(cells: Sequence[evidence.Cell], folder: Path) -> Path:
    """Write the speedup over the uplink, a line for each K, into a folder; which file that is."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "evidence.png"
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for k in dict.fromkeys(one.k for one in cells):
        of_line = sorted((one for one in cells if one.k == k), key=lambda one: one.uplink_mbit)
        uplinks = [one.uplink_mbit for one in of_line]
        name = "all choices" if k == evidence.FULL else f"K = {k}"
        (line,) = axes.plot(
            uplinks, [one.times(one.best) for one in of_line], marker="o", label=f"{name}, best window"
        )
        times = [one.times(one.at_predicted) for one in of_line]
        axes.plot(uplinks, times, "x--", color=line.get_color(), label="closed form's window")
    title = f"{len(evidence.SPANS)} peers, {evidence.DELAY_MS:g} ms, T {evidence.TEMPERATURE:g}, rule rejection"
    axes.set(title=title, xlabel="client's uplink, Mbit/s", ylabel="tokens/s against plain decoding", xscale="log")
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return file
