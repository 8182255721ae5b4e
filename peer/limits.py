"""How much of a peer strangers may have. A limit that is reached refuses; it never slows down anybody else."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from swarm.config import Config
from swarm.permits import PeerIds

Positive = Annotated[int, Field(ge=1)]


class Limits(Config):
    """Part of a peer's options."""

    allow: PeerIds = ()
    """Clients that may open sessions; all may if none is named."""
    deny: PeerIds = ()
    """Nodes that may neither open sessions nor push."""
    max_client_sessions: Positive = 16
    """Open at once, of one client."""
    opens_per_minute: Positive = 60
    """Of one client, on the average; as many may come at once."""


DEFAULTS = Limits()
"""Of a peer that is told nothing else."""
