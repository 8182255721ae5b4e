"""How much of a peer strangers may have. A limit that is reached refuses; it never slows down anybody else."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from swarm.config import Config
from swarm.permits import PeerIds
from swarm.wire import MAX_AHEAD

Positive = Annotated[int, Field(ge=1)]


class Limits(Config):
    """Part of a peer's options."""

    allow: PeerIds = ()
    """Clients that may open sessions; all may if none is named."""
    deny: PeerIds = ()
    """Nodes that may neither open sessions nor push."""
    max_client_sessions: Positive = 16
    """Open at once, of one client."""
    opens_per_minute: Positive = 1200
    """Of one client, on the average; as many may come at once."""
    replayed_tokens: Positive = 1 << 17
    """Of one client's texts, passed on again in ten minutes, on the average; as many may come at once."""
    max_session_tokens: Positive | None = None
    """Positions of one session's text; None: as many as the model and the caches hold."""
    max_in_flight: Annotated[int, Field(ge=2 * MAX_AHEAD)] = 2 * MAX_AHEAD
    """Tokens of one session that are admitted and have not run."""
    max_drafts: Annotated[int, Field(ge=0)] = 64
    """Of one round."""
    unused_seconds: Annotated[float, Field(ge=0)] = 10.0
    """A session that was opened so long ago and never got a round makes room when there is no other."""


DEFAULTS = Limits()
"""Of a peer that is told nothing else."""
