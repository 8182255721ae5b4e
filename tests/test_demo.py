"""The demo leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from specswarm.processes import LOOPBACK, running_swarm, spawn


def test_ctrl_c_ends_every_process_of_the_demo() -> None:
    demo = subprocess.Popen([sys.executable, "-m", "specswarm", "demo"], stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    started = []
    for line in demo.stdout:
        if "arithmetic" in line:  # in the middle of its work
            started = psutil.Process(demo.pid).children(recursive=True)
            demo.send_signal(signal.SIGINT)
            break
    rest = demo.stdout.read()
    demo.stdout.close()
    assert demo.wait(60) == 130
    assert "stopped" in rest
    assert len(started) >= 10  # a bootstrap node, four peers and a daemon for each, beside the client's own
    assert not any(process.is_running() for process in started)


def test_ctrl_c_that_comes_while_a_program_starts_ends_that_one_too(tmp_path: Path) -> None:
    started: list[subprocess.Popen[str]] = []

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(spawn(*arguments, **options))
        signal.raise_signal(signal.SIGINT)
        return started[0]

    with (
        pytest.raises(KeyboardInterrupt),
        running_swarm("embedded", [], tmp_path, place=lambda _: (LOOPBACK, interrupted)),
    ):
        pass
    assert len(started) == 1
    assert started[0].poll() is not None
