"""One session at one peer: a plain object that says which rounds may run.

Its law: a round continues what the cache holds (it may overwrite, it may not leave a gap), comes from the one who
feeds this hop, and is never older than the last. A refused round leaves the session as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.model.cache import KVCache
from swarm.model.source import ModelInfo
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from swarm.wire import Contact, Round


class Refusal(Exception):
    """The sender asked for what it may not have; the text says why. Nothing has changed."""


@dataclass(slots=True, eq=False)
class Session:
    """What this peer knows of one client's chain."""

    id: bytes
    client: str
    """Peer id of the client that opened it."""
    span: Span
    source: str
    """Peer id of whoever feeds this hop: the client, or the peer before."""
    downstream: Contact | None
    """The next peer; None at the last hop."""
    sampling: Sampling
    cache: KVCache
    tokens: list[int] = field(default_factory=list)
    """The token id at each cached position, once the admitted rounds have run."""
    last_number: int = -1
    last_used: float = 0.0

    def check(self, round: Round, sender: str, model: ModelInfo) -> None:
        """Raise Refusal unless `round` of `sender` may run now."""
        if sender != self.source:
            raise Refusal("this session is fed by another peer")
        if round.number < self.last_number:
            raise Refusal(f"round {round.number} comes after round {self.last_number}")
        if round.position > len(self.tokens):
            raise Refusal(f"position {round.position} leaves a gap after {len(self.tokens)} tokens")
        if round.position + len(round.tokens) > model.max_positions:
            raise Refusal(f"the model's context ends at {model.max_positions} tokens")
        if max(round.tokens) >= model.vocab_size:
            raise Refusal(f"token {max(round.tokens)} is not in the vocabulary of {model.vocab_size}")

    def admit(self, round: Round) -> None:
        """Take note of a checked round: it is going to run."""
        self.tokens[round.position :] = round.tokens
        self.last_number = round.number
