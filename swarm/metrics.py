"""What a program tells Prometheus, and how. Peer and client have their own counters beside themselves.

prometheus-client adds the process's own: memory, open descriptors, processor time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Annotated

from prometheus_client import Counter, Gauge, start_http_server
from pydantic import Field

from swarm.config import Config
from swarm.errors import UsageError

TASKS = Gauge("specswarm_tasks", "Tasks of the event loop.")
STREAMS = Gauge("specswarm_incoming_streams", "Open streams that other nodes have opened.")
COMPLAINTS = Counter(
    "specswarm_complaints", "What other nodes did that was refused, ended or ignored, by kind.", ["kind"]
)


class Observed(Config):
    """Part of a program's options."""

    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Where Prometheus finds this program's counters, by HTTP; nowhere, if not given."""
    metrics_host: str = "127.0.0.1"
    """The address to listen on for it; everybody may read there."""


@contextlib.contextmanager
def served(options: Observed) -> Iterator[None]:
    """Serve the counters meanwhile, if a port is given; within an event loop. Raises UsageError if it is taken."""
    if options.metrics_port is None:
        yield
        return
    loop = asyncio.get_running_loop()
    TASKS.set_function(lambda: len(asyncio.all_tasks(loop)))
    try:
        server, thread = start_http_server(options.metrics_port, options.metrics_host)
    except OSError as error:
        raise UsageError(
            f"metrics on {options.metrics_host}:{options.metrics_port}: {error.strerror}; choose another --metrics-port"
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
