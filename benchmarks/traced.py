"""Run one of our programs and write down when it computes: `python -m benchmarks.traced FILE MODULE ARGUMENTS ...`.

A line for each forward pass of a peer's stage and of a drafter: start and end, in seconds of the machine's monotonic
clock, which all its processes share.
"""

from __future__ import annotations

import functools
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from peer.compute import Engine
from swarm.drafting.model import ModelDrafter


def traced(work: Callable[..., Any], file: TextIO) -> Callable[..., Any]:
    """The same function, whose times are written down."""

    @functools.wraps(work)
    def run(*arguments: Any) -> Any:
        started = time.monotonic()
        try:
            return work(*arguments)
        finally:
            file.write(f"{started} {time.monotonic()}\n")

    return run


def main() -> None:
    """Trace, and run what the command line names."""
    name, module, *arguments = sys.argv[1:]
    file = Path(name).open("w", buffering=1)  # noqa: SIM115  # open as long as the program runs
    Engine.run = traced(Engine.run, file)  # type: ignore[method-assign]
    ModelDrafter.grow = traced(ModelDrafter.grow, file)  # type: ignore[method-assign]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
