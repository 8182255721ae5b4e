"""The bars of all parts as one Markdown table, from the JSON that they have written."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PARTS = {
    "chaos": "faults",
    "chaos_attack": "attack",
    "chaos_deceit": "deceit",
    "chaos_strangers": "strangers",
    "chaos_soak": "soak",
}
"""Name of the file, and of the part."""


def rows(records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The table's lines; `records`: what was written, by part."""
    yield "| part | bar | asked | measured |"
    yield "|---|---|---|---|"
    for part, record in records.items():
        for bar in record["bars"]:
            bound = next(word for word in ("at most", "at least") if word in bar)
            measured = "-" if bar["measured"] is None else f"{bar['measured']:.3g} {bar['unit']}".strip()
            missed = " (missed)" if bar["met"] is False else ""
            asked = f"{bound} {bar[bound]:g} {bar['unit']}".strip()
            yield f"| {part} | {bar['bar']} | {asked} | {measured}{missed} |"


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results"))
    folder = parser.parse_args().folder
    files = {part: folder / f"{name}.json" for name, part in PARTS.items()}
    print(*rows({part: json.loads(file.read_text()) for part, file in files.items() if file.exists()}), sep="\n")


if __name__ == "__main__":
    main()
