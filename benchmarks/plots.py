"""The grid as pictures: speed over delay, for each number of peers and temperature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

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
