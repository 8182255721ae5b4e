"""The command, also as `python -m specswarm`."""

from __future__ import annotations

import signal


def main() -> None:
    """Start it. Ctrl-C ends it at once from the first import on: Python would print where it was."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from specswarm import cli

    cli.main()


if __name__ == "__main__":
    main()
