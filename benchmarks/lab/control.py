"""The lab's end of its router: `Router.start / ask / stop`."""

import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

from benchmarks.lab.errors import LabError
from benchmarks.lab.messages import MAX_DATAGRAM, Command, Reply, Start, decode_reply, encode

PATIENCE_S = 10.0
"""Seconds the router has to start, to answer and to end."""

_ROOT = Path(__file__).parents[2]


class Router:
    """Owns the router process and the socket that it obeys. Threads may share it."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        """Use `start`."""
        self._process = process
        self._control = control
        self._one_at_a_time = threading.Lock()

    @classmethod
    def start(cls, start: Start, tuns: list[int]) -> Self:
        """Start the process and lend it the devices; the caller closes its own. LabError if that fails."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE_S)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.lab.router"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd=_ROOT,
                start_new_session=True,  # Ctrl-C is for the lab, which then stops the router
            )
        router = cls(process, ours)
        try:
            router._exchange(start, tuns)
        except BaseException:
            router.stop()
            raise
        return router

    def ask(self, command: Command) -> Reply:
        """Have a command carried out; LabError if the router ended or does not answer."""
        with self._one_at_a_time:
            return self._exchange(command)

    def stop(self) -> None:
        """End the process."""
        self._control.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _exchange(self, command: Command, fds: list[int] | None = None) -> Reply:
        try:
            socket.send_fds(self._control, [encode(command)], fds or [])
            datagram = self._control.recv(MAX_DATAGRAM)
        except OSError as error:
            raise LabError(f"the lab's router does not answer: {error}") from error
        if not datagram:
            raise LabError("the lab's router ended")
        return decode_reply(datagram)
