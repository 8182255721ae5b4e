"""Messages as bytes, and back.

A message is a msgpack array whose first element names its type; `decode` checks types, ranges and sizes in one place,
so what lies behind it trusts what it gets. Bytes that do not fit raise BadMessage and change nothing. Text in
messages is printable on both sides of the wire (see `swarm.foreign`).
"""

from __future__ import annotations

from typing import cast, get_args

import msgspec
from msgspec import inspect

from swarm.errors import BadMessage, UsageError
from swarm.foreign import cleaner
from swarm.span import Span
from swarm.speculation.semantic import Leniency
from swarm.wire import MAX_MESSAGE, AnyMessage, Generate, Generated, Hidden, Open, Proofs, Round, Rule, Views

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)
_cleaners = {kind: cleaner(inspect.type_info(kind)) for kind in get_args(AnyMessage)}


def encode(message: AnyMessage) -> bytes:
    """The message's bytes, without a frame."""
    return _encoder.encode(_cleaned(message))


def decode(data: bytes) -> AnyMessage:
    """The message in `data`. Raises BadMessage if there is none, or one beyond the limits of `swarm.wire`."""
    if len(data) > MAX_MESSAGE:
        raise BadMessage(f"message of {len(data)} bytes; at most {MAX_MESSAGE} are taken")
    try:
        message = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"not a message: {error}") from None
    message = _cleaned(message)
    _check(message)
    return message


def _cleaned(message: AnyMessage) -> AnyMessage:
    """The message with printable text."""
    clean = _cleaners[type(message)]
    return message if clean is None else cast(AnyMessage, clean(message))


def _check(message: AnyMessage) -> None:
    """What a type cannot say."""
    match message:
        case Round():
            _check_round(message)
        case Hidden():
            _check_round(message.round)
        case Proofs():
            if [len(ids) for ids in message.ids] != [len(weights) for weights in message.weights]:
                raise BadMessage("proofs whose tokens and weights are not as many")
        case Views():
            if [len(ids) for ids in message.ids] != [len(weights) for weights in message.weights]:
                raise BadMessage("views whose tokens and weights are not as many")
            if any(len(set(ids)) < len(ids) for ids in message.ids):
                raise BadMessage("a view that names a token twice")
        case Open():
            _check_rule(message.rule, message.leniency)
            _check_span(message.start, message.end)
        case Generate():
            _check_rule(message.rule, message.leniency)
        case Generated():
            for _, start, end in message.chain:
                _check_span(start, end)


def _check_rule(rule: Rule, leniency: Leniency | None) -> None:
    if (rule == "semantic") != (leniency is not None):
        raise BadMessage("the rule semantic, and no other, has thresholds")


def _check_span(start: int, end: int) -> None:
    try:
        Span(start, end)
    except UsageError as error:
        raise BadMessage(str(error)) from None


def _check_round(round: Round) -> None:
    if round.grown:
        _check_more(round)
        return
    if round.num_text < 1:
        raise BadMessage("a round of drafts alone: the newest committed token must come first")
    if round.parents and len(round.parents) != round.num_drafts:
        raise BadMessage(f"a tree of {len(round.parents)} nodes in a round of {round.num_drafts} drafts")
    if any(parent >= node for node, parent in enumerate(round.parents)):
        raise BadMessage("a tree with a node that comes before its parent")


def _check_more(round: Round) -> None:
    if not round.judged or not len(round.tokens) == len(round.parents) == round.num_drafts:
        raise BadMessage("more of a tree that is not drafts alone")
    if any(parent >= round.grown + i for i, parent in enumerate(round.parents)):
        raise BadMessage("a tree with a node that comes before its parent")
