"""How the signals that end programs are handled while a lab is up, so that it is always taken down whole."""

import signal
import threading
from types import FrameType
from typing import Self

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndingSignals:
    """Context manager: SIGTERM and SIGHUP, unless the program handles them itself, raise SystemExit.

    Only the main thread may set handlers: entered elsewhere, this does nothing.
    """

    def __enter__(self) -> Self:
        """Take the signals whose default would end the process on the spot."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        handlers = {number: signal.getsignal(number) for number in _ENDING if in_main_thread}
        self._before = {number: handler for number, handler in handlers.items() if handler is not None}
        for number, handler in self._before.items():
            if handler == signal.SIG_DFL:
                signal.signal(number, _exit)
        return self

    def __exit__(self, *_error: object) -> None:
        """Every signal is handled as it was before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def pass_over(self) -> None:
        """From now on, pass over Ctrl-C, SIGTERM and SIGHUP."""
        for number in self._before:
            signal.signal(number, _nothing)


def _exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Unlike SIG_IGN, programs started meanwhile do not inherit it."""
