"""Where tables for a person go."""

from __future__ import annotations

from typing import Any

from rich.console import Console

_USUAL_WIDTH = 80  # characters


def standard_output(**options: Any) -> Console:
    """Standard output; text in it is shown as it is, and where the system gives it no width, it has a usual one."""
    made = Console(emoji=False, **options)
    return made if made.width > 0 else Console(emoji=False, width=_USUAL_WIDTH, **options)
