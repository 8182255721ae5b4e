"""What another peer pushes, checked and unpacked: hidden states that a session can compute with, or none."""

from __future__ import annotations

from peer.compute import States
from peer.session import Refusal, Session
from swarm import rows
from swarm.errors import BadMessage
from swarm.packing import unpack
from swarm.wire import Hidden


def states_of(message: Hidden, session: Session, hidden_size: int) -> States:
    """The states that a message brings, of so many values for each token.

    Raises Refusal if they are not what the session asks for, BadMessage if they are broken: then they are the sender's
    fault. Nothing is unpacked before it is clear how much it has to be.
    """
    if session.span.start == 0:
        raise Refusal("unlawful", "the first hop takes token ids, no hidden states")
    form = message.dtype
    if form not in rows.forms(session.wire):
        names = ", ".join(rows.forms(session.wire))
        raise Refusal("unlawful", f"hidden states are {form}; this session reads {names}")
    expected = len(message.round.tokens) * rows.row_bytes(form, hidden_size)
    states = unpack(message.states, expected, rows.value_bytes(form)) if message.packed else message.states
    if len(states) != expected:
        raise Refusal("unlawful", f"{len(states)} bytes of hidden states; {expected} belong to this round")
    if not rows.are_finite(states, form, hidden_size):
        raise BadMessage("its hidden states are not finite")
    return States(states, form)
