"""Sockets whose other end is gone."""

from __future__ import annotations

import asyncio


def check_open(writer: asyncio.StreamWriter) -> None:
    """Before writing: raises ConnectionResetError if the other end is known to be gone.

    uvloop would raise a RuntimeError then, as for a bug.
    """
    if writer.is_closing():
        raise ConnectionResetError
