"""The demo leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil


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
