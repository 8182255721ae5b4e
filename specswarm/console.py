"""Standard output and standard error: events as JSON lines, errors as one line, logs that do not shout."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

import uvloop

from swarm.errors import SpecswarmError, UsageError

T = TypeVar("T")


def print_json(**fields: Any) -> None:
    """One object on one line of standard output, at once."""
    print(json.dumps(fields, ensure_ascii=False), flush=True)


def say(text: str) -> None:
    """A line for a person, on standard error."""
    print(text, file=sys.stderr, flush=True)


def fail(error: SpecswarmError) -> NoReturn:
    """One line that says what to do; exit code 2 where the command was wrong, else 1."""
    say(f"specswarm: {error}")
    sys.exit(2 if isinstance(error, UsageError) else 1)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a program's coroutine to its end; its known errors become one line and an exit code."""
    try:
        return uvloop.run(work)
    except SpecswarmError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    except BaseExceptionGroup as group:
        known = group.subgroup(SpecswarmError)
        if known is None:
            raise
        fail(_first(known))


def quiet_libraries() -> None:
    """Keep libraries off the screen; our own log goes to standard error, line by line."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("specswarm")
    log.handlers[:] = [handler]
    log.setLevel(os.environ.get("SPECSWARM_LOGLEVEL", "INFO"))
    log.propagate = False


def _first(group: BaseExceptionGroup[SpecswarmError]) -> SpecswarmError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
