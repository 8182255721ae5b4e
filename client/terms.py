"""On which terms a text is generated: what hops are told when a session is opened, and what it is judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from swarm.speculation.sampling import Sampling
from swarm.speculation.semantic import Leniency
from swarm.wire import Rule, Wire


@dataclass(frozen=True, slots=True)
class Terms:
    """The same for all chains of one generation."""

    sampling: Sampling = field(default_factory=Sampling)
    rule: Rule = "match"
    """By which the last hop judges."""
    leniency: Leniency | None = None
    """Under the rule `semantic`."""
    wire: Wire = "exact"
    """How hidden states go from hop to hop."""
    witness: Callable[[int], int] | None = None
    """Gives the hops that begin with a layer the seed of their sketches, if the client audits."""
