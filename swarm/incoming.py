"""How many streams of others a node holds open: each takes memory here and in the daemon, whatever is sent on it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from swarm.metrics import STREAMS


class IncomingStreams:
    """Counts those that are open, by the node at the other end."""

    def __init__(self, max_streams: int = 1024, max_client_streams: int = 64) -> None:
        """`max_client_streams`: of one node."""
        self._max_streams = max_streams
        self._max_client_streams = max_client_streams
        self._open = Counter[str]()

    @contextlib.contextmanager
    def taken_by(self, peer_id: str) -> Iterator[bool]:
        """A place for one more stream while it is served; False if there is none."""
        if self._open.total() >= self._max_streams or self._open[peer_id] >= self._max_client_streams:
            yield False
            return
        self._open[peer_id] += 1
        STREAMS.inc()
        try:
            yield True
        finally:
            STREAMS.dec()
            self._open[peer_id] -= 1
            if not self._open[peer_id]:
                del self._open[peer_id]
