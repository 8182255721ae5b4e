"""Processes that take and give JSON objects, one a line, on standard input and output: both ends."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

_MAX_LINE = 1 << 24  # bytes


class JsonProcess:
    """One module of ours that runs so, started by `popen`."""

    def __init__(self, module: str, *options: str, popen: Any = subprocess.Popen) -> None:
        self._name = module
        argv = [sys.executable, "-m", module, *options]
        self._process: subprocess.Popen[str] = popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def write(self, message: dict[str, Any]) -> None:
        """Say something to it."""
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def read(self) -> dict[str, Any]:
        """What it says next. RuntimeError if it has ended."""
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"{self._name} ended; its standard error has the cause")
        return dict(json.loads(line))

    def close(self) -> None:
        """Have it end: there is nothing more to say."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(30)
        if self._process.stdout:
            self._process.stdout.close()


async def standard_input() -> asyncio.StreamReader:
    """In such a process: its standard input, to be read line by line."""
    reader = asyncio.StreamReader(limit=_MAX_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def say(**fields: Any) -> None:
    """In such a process: one object, at once."""
    print(json.dumps(fields), flush=True)
