"""What another peer pushes: hidden states that a session can compute with, or none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from peer.session import Refusal, Session
from swarm import rows
from swarm.errors import BadMessage
from swarm.packing import packed_size, unpack
from swarm.wire import MAX_HOPS, Hidden


class Unfit(Exception):
    """The dtype in which this peer computes cannot hold what it is given: that is nobody else's fault."""


@dataclass(slots=True, eq=False)
class _Parcel:
    """The rows of one message, packed or not, until they are needed."""

    data: bytes
    is_packed: bool
    is_checked: bool = False
    states: Tensor | None = None
    """In place of `data`, where they take no more."""


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """Hidden states: a row for each token, in the sender's form (see `swarm.rows`).

    They are unpacked and checked when they are needed, on the torch thread: what that takes is stage time, which the
    session pays for, and the event loop goes on.
    """

    parcel: _Parcel
    form: str
    hidden_size: int
    row_bytes: int
    sender: str
    start: int
    end: int
    """The rows of the message that these are."""

    @classmethod
    def of(cls, data: bytes, form: str, hidden_size: int, *, sender: str, is_packed: bool = False) -> States:
        """Those that a message brought. Raises BadMessage where nothing is packed."""
        size = packed_size(data) if is_packed else len(data)
        row_bytes = rows.row_bytes(form, hidden_size)
        return cls(_Parcel(data, is_packed), form, hidden_size, row_bytes, sender, 0, size // row_bytes)

    @property
    def num_bytes(self) -> int:
        """Of the rows."""
        return (self.end - self.start) * self.row_bytes

    def parted(self, count: int) -> tuple[States, States]:
        """The first `count` rows, and the others."""
        at = self.start + count
        shared = (self.parcel, self.form, self.hidden_size, self.row_bytes, self.sender)
        return States(*shared, self.start, at), States(*shared, at, self.end)

    def check(self, dtype: torch.dtype) -> None:
        """Unpack the rows, if nobody has yet, for a stage that computes in `dtype`. Raises BadMessage if they are not
        what was packed, or no numbers that a stage could have computed; Unfit if that dtype cannot hold them."""
        parcel = self.parcel
        if parcel.is_checked:
            return
        if parcel.is_packed:
            size = packed_size(parcel.data)
            parcel.data, parcel.is_packed = unpack(parcel.data, size, rows.value_bytes(self.form)), False
        states = rows.from_rows(parcel.data, self.form, self.hidden_size)
        if not rows.are_finite(states, parcel.data, self.form):
            raise BadMessage("its hidden states are not finite")
        if dtype == torch.float16 and self.form != "float16" and not bool(states.to(dtype).isfinite().all()):
            raise Unfit("it computes in float16, and the hidden states that it is given are too large for that")
        parcel.is_checked = True
        if states.nbytes == len(parcel.data):
            parcel.states, parcel.data = states, b""

    def read(self, dtype: torch.dtype) -> Tensor:
        """The states [tokens, hidden size], in their own form. Raises what `check` does."""
        self.check(dtype)
        if self.parcel.states is not None:
            return self.parcel.states[self.start : self.end]
        data = self.parcel.data[self.start * self.row_bytes : self.end * self.row_bytes]
        return rows.from_rows(data, self.form, self.hidden_size)


def states_of(message: Hidden, session: Session, sender: str, hidden_size: int) -> States:
    """The states that a message brings, of so many values for each token.

    Raises Refusal at the first hop, BadMessage if they are not what every peer knows that a hop of this session takes:
    that is the sender's fault. Nothing is unpacked yet, and no more will be than belongs to the round.
    """
    if session.span.start == 0:
        raise Refusal("unlawful", "the first hop takes token ids, no hidden states")
    form = message.dtype
    if form not in rows.forms(session.wire):
        names = ", ".join(rows.forms(session.wire))
        raise BadMessage(f"hidden states are {form}; this session reads {names}")
    if len(message.compute) >= MAX_HOPS:
        raise BadMessage(f"as many stages as {len(message.compute)} are said to have computed them")
    states = States.of(message.states, form, hidden_size, sender=sender, is_packed=message.packed)
    expected = len(message.round.tokens) * states.row_bytes
    if message.packed and (size := packed_size(message.states)) != expected:
        raise BadMessage(f"packed states of {size} bytes in place of {expected}")
    if not message.packed and len(message.states) != expected:
        raise BadMessage(f"{len(message.states)} bytes of hidden states; {expected} belong to this round")
    return states
