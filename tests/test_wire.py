"""The codec: what is written is read back, and nothing else is ever taken for a message."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import PROTOCOL
from swarm.codec import decode, encode
from swarm.errors import BadMessage, Why
from swarm.rows import most_rows
from swarm.sketch import ROW_BYTES
from swarm.speculation.processors import Processors
from swarm.speculation.sampling import Sampling
from swarm.speculation.semantic import Leniency
from swarm.wire import (
    MAX_COMPLAINT,
    MAX_COMPLAINTS,
    MAX_DRAFTS,
    MAX_MESSAGE,
    MAX_PEER_ROUND,
    MAX_RECALLED,
    MAX_ROUND_TOKENS,
    MAX_SESSION_MESSAGE,
    MAX_TEXT,
    AnyMessage,
    Ask,
    Broken,
    Complaint,
    Contact,
    Copy,
    Form,
    Generate,
    Generated,
    Hello,
    Hidden,
    Inspect,
    Inspected,
    Introduction,
    Leaving,
    Open,
    Ping,
    Pong,
    Progress,
    Proofs,
    Recall,
    Recalled,
    Refused,
    Relink,
    Round,
    Rule,
    Verdict,
    Views,
    Wire,
    beyond,
)

sessions = st.binary(min_size=16, max_size=16)
printable_text = st.characters(exclude_categories=["C", "Zl", "Zp", "Lo", "Mn"])
peer_ids = st.text(printable_text, min_size=1, max_size=128)
counts = st.integers(0, 1 << 31)
chunks = st.integers(1, MAX_ROUND_TOKENS)
reasons = st.text(printable_text, max_size=1024)
tokens = st.lists(counts, min_size=1, max_size=40).map(tuple)
seconds = st.lists(st.floats(0, 3600), max_size=8).map(tuple)
contacts = st.builds(Contact, peer_ids, st.lists(st.text(printable_text, max_size=256), max_size=4).map(tuple))
introductions = st.builds(
    Introduction,
    contacts,
    st.integers(1, MAX_PEER_ROUND),
    st.floats(0, allow_nan=False),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=64, max_size=64),
)
shares = st.floats(0, 1)
drafts = st.integers(0, MAX_DRAFTS)
leniencies = st.builds(Leniency, shares, shares, shares, shares)
few_ids = st.lists(counts, max_size=5).map(tuple)
phrases = st.lists(counts, min_size=1, max_size=3).map(tuple)
penalties = st.floats(0.01, 100)
processors = st.builds(
    Processors,
    sequence_bias=st.lists(st.tuples(phrases, st.floats(-1e30, 1e30)), max_size=3).map(tuple),
    encoder_repetition_penalty=penalties,
    repetition_penalty=penalties,
    no_repeat_ngram_size=st.integers(0, 16),
    encoder_no_repeat_ngram_size=st.integers(0, 16),
    bad_words_ids=st.lists(phrases, max_size=3).map(tuple),
    min_length=counts,
    min_new_tokens=st.none() | counts,
    forced_bos_token_id=st.none() | counts,
    forced_eos_token_id=few_ids,
    remove_invalid_values=st.booleans(),
    exponential_decay_length_penalty=st.tuples(counts, st.floats(0, 100)),
    suppress_tokens=few_ids,
    begin_suppress_tokens=few_ids,
    renormalize_logits=st.booleans(),
)
samplings = st.builds(
    Sampling,
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 1 << 20),
    top_p=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, (1 << 63) - 1),
    processors=st.none() | processors,
    prompt_tokens=counts,
    max_length=counts,
    eos_token_id=few_ids,
)


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    ids = draw(tokens)
    num_drafts = draw(st.integers(0, len(ids) - 1))
    parents = tuple(draw(st.integers(-1, node - 1)) for node in range(num_drafts * draw(st.booleans())))
    if draw(st.booleans()):
        return Round(draw(sessions), draw(counts), draw(counts), ids, num_drafts, draw(st.booleans()), parents)
    grown = draw(st.integers(1, MAX_DRAFTS))
    more = tuple(draw(st.integers(-1, grown + i - 1)) for i in range(len(ids)))
    return Round(draw(sessions), draw(counts), draw(counts), ids, len(ids), True, more, grown)


@st.composite
def opens(draw: st.DrawFn) -> Open:
    start, end = draw(st.lists(counts, min_size=2, max_size=2, unique=True).map(sorted))
    fingerprint = draw(st.text("0123456789abcdef", min_size=64, max_size=64))
    upstream, downstream = draw(st.none() | peer_ids), draw(st.none() | introductions)
    return Open(
        draw(sessions),
        fingerprint,
        start,
        end,
        upstream,
        downstream,
        draw(counts),
        draw(chunks),
        draw(samplings),
        draw(st.none() | st.integers(0, (1 << 63) - 1)),
        rule := draw(st.sampled_from(get_args(Rule))),
        draw(leniencies) if rule == "semantic" else None,
        draw(st.sampled_from(get_args(Wire))),
    )


@st.composite
def proofs(draw: st.DrawFn) -> Proofs:
    sizes = draw(st.lists(st.integers(1, 5), max_size=5))
    ids = tuple(tuple(draw(counts) for _ in range(size)) for size in sizes)
    weights = tuple(tuple(draw(st.integers(1, (1 << 16) - 1)) for _ in range(size)) for size in sizes)
    return Proofs(draw(sessions), draw(counts), ids, weights, draw(st.integers(0, MAX_DRAFTS)))


@st.composite
def views(draw: st.DrawFn) -> Views:
    ids = draw(st.lists(st.lists(counts, min_size=1, max_size=8, unique=True).map(tuple), max_size=5).map(tuple))
    weights = tuple(tuple(draw(st.integers(1, (1 << 16) - 1)) for _ in one) for one in ids)
    return Views(draw(sessions), draw(counts), ids, weights)


@st.composite
def generates(draw: st.DrawFn) -> Generate:
    rule = draw(st.sampled_from(get_args(Rule)))
    return Generate(
        draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
        draw(tokens),
        draw(st.integers(1, MAX_TEXT)),
        draw(samplings),
        rule,
        draw(leniencies) if rule == "semantic" else None,
        draw(st.sampled_from(["auto", "awc"]) | drafts),
        draw(st.booleans()),
        draw(st.just("auto") | drafts.filter(bool)),
        draw(st.just("auto") | drafts.filter(bool)),
    )


@st.composite
def generated(draw: st.DrawFn) -> Generated:
    spans = draw(st.lists(st.lists(counts, min_size=2, max_size=2, unique=True).map(sorted), max_size=4))
    chain = tuple((draw(peer_ids), start, end) for start, end in spans)
    took = [draw(st.floats(0, 86400)) for _ in range(3)]
    return Generated(draw(tokens), draw(counts), draw(counts), *took, draw(counts), chain)


KINDS: dict[type[AnyMessage], st.SearchStrategy[Any]] = {
    Open: opens(),
    Refused: st.builds(Refused, sessions, st.sampled_from(get_args(Why)), reasons),
    Round: rounds(),
    Hidden: st.builds(
        Hidden,
        rounds(),
        counts,
        st.sampled_from(get_args(Form)),
        st.binary(max_size=200),
        seconds,
        st.booleans(),
    ),
    Verdict: st.builds(Verdict, sessions, counts, tokens, seconds, st.none() | st.floats(0, 1e6)),
    Broken: st.builds(Broken, sessions, peer_ids, reasons),
    Ping: st.builds(Ping, counts),
    Pong: st.builds(Pong, counts),
    Relink: st.builds(
        Relink, sessions, st.none() | peer_ids, st.none() | introductions, counts, chunks, counts, counts
    ),
    Ask: st.builds(Ask, sessions, counts, counts),
    Copy: st.builds(Copy, sessions, introductions, counts, counts, chunks),
    Leaving: st.builds(Leaving, st.floats(0, 86400)),
    Progress: st.builds(Progress, sessions, *[counts] * 8),
    Hello: st.builds(Hello, st.binary(max_size=64)),
    Recall: st.builds(Recall, sessions, counts, counts, counts),
    Inspect: st.builds(Inspect, st.floats(0, 1e10), st.binary(min_size=64, max_size=64)),
    Inspected: st.builds(
        Inspected,
        st.lists(
            st.builds(
                Complaint,
                peer_ids,
                st.text(printable_text, max_size=16),
                st.text(printable_text, max_size=MAX_COMPLAINT),
                counts,
                st.floats(0, 86400),
            ),
            max_size=3,
        ).map(tuple),
    ),
    Recalled: st.builds(Recalled, sessions, counts, st.binary(max_size=200)),
    Proofs: proofs(),
    Generate: generates(),
    Generated: generated(),
    Views: views(),
}
messages = st.one_of(*KINDS.values())

SESSION = b"0123456789abcdef"
PROOFS = Proofs(SESSION, 1, ((7, 8), (9, 10)), ((5, 4), (3, 2)))
TREE = Round(SESSION, 1, 5, (1, 2, 3), 2, True, (-1, 0))
MORE = Round(SESSION, 2, 5, (8, 9), 2, True, (-1, 5), 5)
ROUND = Round(SESSION, 1, 5, (7, 8, 9), 2, True)
NEXT = Introduction(Contact("next", ("/ip4/127.0.0.1/tcp/1",)), 512, 5.0, bytes(32), bytes(64))
OPEN = Open(SESSION, "f" * 64, 0, 4, None, NEXT, 0, 512, Sampling())
LATER_SPAN = Open(SESSION, "f" * 64, 5, 9, "first", None, 0, 512, Sampling())
LONG_ROUND = Round(SESSION, 1, 0, (1,) * 600, 512, True)
VERDICT = Verdict(SESSION, 1, (8, 3), (0.1, 0.2))
GENERATE = Generate("f" * 64, (1, 2, 3), 5, Sampling(), "match", None, "auto", True, "auto", "auto")
GENERATED = Generated((1, 2), 3, 1, 0.1, 0.2, 0.1, 0, (("first", 0, 4),))
PING_TAG = encode(Ping(1))[1:2]
HIDDEN = Hidden(ROUND, 4, "float32", b"\0" * 24, (0.1,))


def altered(message: AnyMessage, path: tuple[Any, ...], value: Any) -> bytes:
    """The message's bytes with one field replaced, past every check."""
    content = msgspec.msgpack.decode(encode(message))
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return msgspec.msgpack.encode(content)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_message_survives_the_wire(kind: type[AnyMessage], data: st.DataObject) -> None:
    message = data.draw(KINDS[kind])
    received = decode(encode(message))
    assert type(received) is kind
    assert received == message


def test_every_kind_of_message_is_tested_here() -> None:
    assert set(KINDS) == set(AnyMessage.__args__)


BEYOND_THE_LIMITS: dict[str, bytes] = {
    "badge too long": encode(Hello(bytes(65))),
    "more sketches than one answer has": encode(Recalled(SESSION, 1, bytes(MAX_RECALLED * ROW_BYTES + 1))),
    "text of nothing": altered(GENERATE, (2,), []),
    "text too long": altered(GENERATE, (2,), [1] * (MAX_TEXT + 1)),
    "generation of no tokens": altered(GENERATE, (3,), 0),
    "rule that is none": altered(GENERATE, (5,), "dense"),
    "thresholds without their rule": altered(GENERATE, (6,), [0.5, 0.5, 0.5, 0.5]),
    "window too large": altered(GENERATE, (7,), MAX_DRAFTS + 1),
    "window of another kind": altered(GENERATE, (7,), "best"),
    "chain with a hop of no layers": altered(GENERATED, (8,), [["first", 4, 4]]),
    "time that is no number": altered(GENERATED, (4,), float("nan")),
    "negative margin": encode(Verdict(SESSION, 1, (1,), (), -1.0)),
    "margin that is no number": encode(Verdict(SESSION, 1, (1,), (), float("nan"))),
    "witness too large": encode(msgspec.structs.replace(OPEN, witness=1 << 63)),
    "session id too short": altered(ROUND, (1,), b"short"),
    "session id too long": altered(ROUND, (1,), b"0" * 17),
    "session id as text": altered(ROUND, (1,), "0123456789abcdef"),
    "negative number": altered(ROUND, (2,), -1),
    "number too large": altered(ROUND, (2,), (1 << 31) + 1),
    "number as float": altered(ROUND, (2,), 1.0),
    "negative position": altered(ROUND, (3,), -1),
    "no tokens": altered(ROUND, (4,), []),
    "negative token": altered(ROUND, (4, 1), -5),
    "token too large": altered(ROUND, (4, 1), 1 << 40),
    "token as truth value": altered(ROUND, (4, 1), True),
    "too many tokens": altered(ROUND, (4,), [1] * (MAX_ROUND_TOKENS + 1)),
    "as many drafts as tokens": altered(ROUND, (5,), 3),
    "more drafts than tokens": altered(ROUND, (5,), 100),
    "negative drafts": altered(ROUND, (5,), -1),
    "too many drafts": altered(LONG_ROUND, (5,), 513),
    "judged as number": altered(ROUND, (6,), 1),
    "a node before its parent": encode(msgspec.structs.replace(TREE, parents=(-1, 1))),
    "a node that is its own parent": encode(msgspec.structs.replace(TREE, parents=(0, 0))),
    "a parent beyond the root": altered(TREE, (7, 0), -2),
    "fewer nodes than drafts": encode(msgspec.structs.replace(TREE, parents=(-1,))),
    "more nodes than drafts": encode(msgspec.structs.replace(TREE, parents=(-1, 0, 0))),
    "more of a tree with text": encode(msgspec.structs.replace(MORE, num_drafts=1)),
    "more of a tree without parents": encode(msgspec.structs.replace(MORE, parents=())),
    "more of a tree that is not judged": encode(msgspec.structs.replace(MORE, judged=False)),
    "more of a tree on a node to come": encode(msgspec.structs.replace(MORE, parents=(0, 6))),
    "more of too large a tree": altered(MORE, (8,), MAX_DRAFTS + 1),
    "more of less than nothing": altered(MORE, (8,), -1),
    "drafts alone inside hidden states": altered(HIDDEN, (1, 5), 3),
    "another message inside hidden states": altered(HIDDEN, (1,), msgspec.msgpack.decode(encode(VERDICT))),
    "states as text": altered(HIDDEN, (4,), "text"),
    "values of no known form": altered(HIDDEN, (3,), "int4"),
    "empty verdict": altered(VERDICT, (3,), []),
    "negative seconds": altered(VERDICT, (4, 0), -0.5),
    "seconds not a number": altered(VERDICT, (4, 0), float("nan")),
    "seconds infinite": altered(VERDICT, (4, 0), float("inf")),
    "hidden seconds infinite": altered(HIDDEN, (5, 0), float("inf")),
    "fingerprint too short": altered(OPEN, (2,), "f" * 63),
    "span empty": altered(OPEN, (4,), 0),
    "span backwards": altered(LATER_SPAN, (4,), 3),
    "span negative": altered(OPEN, (3,), -1),
    "upstream empty": altered(OPEN, (5,), ""),
    "upstream too long": altered(OPEN, (5,), "p" * 129),
    "downstream that is a name": altered(OPEN, (6,), "next"),
    "downstream without a peer": altered(OPEN, (6, 0), {"maddrs": []}),
    "downstream with too many addresses": altered(OPEN, (6, 0, "maddrs"), ["/ip4/1.2.3.4/tcp/1"] * 33),
    "downstream with a long address": altered(OPEN, (6, 0, "maddrs"), ["/" * 257]),
    "downstream that takes nothing at a time": altered(OPEN, (6, 1), 0),
    "downstream of no time": altered(OPEN, (6, 2), float("nan")),
    "downstream with a short digest": altered(OPEN, (6, 3), bytes(31)),
    "downstream with a long signature": altered(OPEN, (6, 4), bytes(65)),
    "negative temperature": altered(OPEN, (9, "temperature"), -1.0),
    "temperature not a number": altered(OPEN, (9, "temperature"), float("nan")),
    "temperature infinite": altered(OPEN, (9, "temperature"), float("inf")),
    "top_p zero": altered(OPEN, (9, "top_p"), 0.0),
    "top_p above one": altered(OPEN, (9, "top_p"), 1.5),
    "top_p not a number": altered(OPEN, (9, "top_p"), float("nan")),
    "top_k negative": altered(OPEN, (9, "top_k"), -1),
    "penalty zero": altered(OPEN, (9, "processors"), {"repetition_penalty": 0.0}),
    "penalty not a number": altered(OPEN, (9, "processors"), {"repetition_penalty": float("nan")}),
    "a processor that nobody knows": altered(OPEN, (9, "processors"), {"mood": 1}),
    "lists that are too long": altered(OPEN, (9, "processors"), {"bad_words_ids": [[1]] * 1400}),
    "too many tokens that end the text": altered(OPEN, (9, "eos_token_id"), [1] * 65),
    "sampling of a field that nobody knows": altered(OPEN, (9, "mood"), 1),
    "seed too large": altered(OPEN, (9, "seed"), 1 << 63),
    "reason too long": altered(Refused(SESSION, "full", ""), (3,), "x" * 1025),
    "refused for no known reason": altered(Refused(SESSION, "full", ""), (2,), "mood"),
    "a field too many": msgspec.msgpack.encode([*msgspec.msgpack.decode(encode(Ping(1))), 1]),
    "broken peer without name": altered(Broken(SESSION, "p", ""), (2,), ""),
    "no choices": altered(PROOFS, (3, 0), []),
    "fewer weights than choices": altered(PROOFS, (4, 1), [1]),
    "proofs of fewer drafts": altered(PROOFS, (4,), [[1, 2]]),
    "a weight of 0": altered(PROOFS, (4, 0, 1), 0),
    "a weight too large": altered(PROOFS, (4, 0, 1), 1 << 16),
    "a choice that is no token": altered(PROOFS, (3, 0, 1), -1),
    "judged by no known rule": altered(OPEN, (11,), "mood"),
    "states in no known form": altered(OPEN, (12,), "int4"),
    "packed, as a number": altered(HIDDEN, (6,), 1),
    "unknown tag": altered(Ping(1), (0,), 99),
    "tag as text": altered(Ping(1), (0,), "Ping"),
    "field missing": b"\x91" + PING_TAG,
    "no fields at all": msgspec.msgpack.encode([]),
    "no array": msgspec.msgpack.encode({"nonce": 1}),
    "nothing": b"",
    "trailing bytes": encode(Ping(1)) + b"\0",
    "two messages": encode(Ping(1)) * 2,
    "cut short": encode(ROUND)[:-1],
    "text that is no UTF-8": encode(Refused(SESSION, "full", "reason")).replace(
        b"reason", b"\xff\xfe\xff\xfe\xff\xfe"
    ),
    "array said to be enormous": encode(VERDICT)[:21] + b"\xdd\xff\xff\xff\xff",
    "seconds said to be enormous": encode(Verdict(SESSION, 1, (1,), ()))[:-1] + b"\xdd\xff\xff\xff\xff",
    "nested deeply": b"\x91" * 200_000,
    "nested deeply in a field of the future": b"\x93" + PING_TAG + b"\x01" + b"\x91" * 200_000 + b"\x01",
    "nested deeply in an unknown option": altered(OPEN, (9, "later"), 1)[:-1] + b"\x91" * 200_000 + b"\x01",
}


@pytest.mark.parametrize("data", BEYOND_THE_LIMITS.values(), ids=BEYOND_THE_LIMITS.keys())
def test_decode_refuses(data: bytes) -> None:
    with pytest.raises(BadMessage) as refusal:
        decode(data)
    assert "\n" not in str(refusal.value)


def test_limits_themselves_are_taken() -> None:
    for message in (
        Round(SESSION, 1 << 31, 1 << 31, (1 << 31,) * MAX_ROUND_TOKENS, 512, True),
        Round(SESSION, 0, 0, (0,), 0, False),
        Refused(SESSION, "full", "x" * 1024),
        Broken(SESSION, "p" * 128, ""),
    ):
        assert decode(encode(message)) == message


def test_message_beyond_the_largest_is_refused() -> None:
    with pytest.raises(BadMessage, match="bytes"):
        decode(bytes(MAX_MESSAGE + 1))


@pytest.mark.parametrize("size", [1024, 8192])
def test_the_longest_round_that_a_peer_takes_fits_into_a_message(size: int) -> None:
    count = min(most_rows("float32", size), MAX_ROUND_TOKENS)
    assert count == {1024: 2048, 8192: 256}[size]
    round = Round(SESSION, 1 << 31, 1 << 31, (1 << 31,) * count, 0, False)
    decode(encode(Hidden(round, 4, "float32", bytes(count * size * 4), (0.1,) * 100)))


def test_all_complaints_fit_into_a_message_to_a_client() -> None:
    longest = Complaint("p" * 128, "k" * 16, "\N{GRINNING FACE}" * MAX_COMPLAINT, 1 << 31, 86400.0)
    assert len(encode(Inspected((longest,) * MAX_COMPLAINTS))) < MAX_SESSION_MESSAGE


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_bad_message(data: bytes) -> None:
    with contextlib.suppress(BadMessage):
        decode(data)


@settings(max_examples=400, deadline=None)
@given(messages, st.data())
def test_mutated_message_raises_nothing_but_bad_message(message: AnyMessage, data: st.DataObject) -> None:
    mutated = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mutated) - 1)) if mutated else 0
        removed = data.draw(st.integers(0, 2))
        mutated[place : place + removed] = data.draw(st.binary(max_size=3))
    with contextlib.suppress(BadMessage):
        received = decode(bytes(mutated))
        assert decode(encode(received)) == received  # what was taken for a message is one


def test_what_is_cut_off_a_round_is_its_beginning() -> None:
    whole = Round(SESSION, 1, 5, (1, 2, 3, 7, 8, 9), 2, True)
    assert beyond(whole, 5) == beyond(whole, 0) == whole
    assert beyond(whole, 8) == Round(SESSION, 1, 8, (7, 8, 9), 2, True)
    assert beyond(whole, 11) is None
    assert beyond(Round(SESSION, 1, 5, (1, 2, 3), 0, False), 7) == Round(SESSION, 1, 7, (3,), 0, False)


def test_a_tree_is_cut_down_to_what_is_text_or_becomes_it() -> None:
    #  text 1 2, newest 3; drafts 4 - 5 (the trunk), 6 beside 5, 7 after 6
    whole = Round(SESSION, 1, 5, (1, 2, 3, 4, 5, 6, 7), 4, True, (-1, 0, 0, 2))
    assert (whole.num_text, whole.num_kept, whole.end) == (3, 5, 10)
    assert beyond(whole, 7) == Round(SESSION, 1, 7, (3, 4, 5, 6, 7), 4, True, (-1, 0, 0, 2))
    assert beyond(whole, 8) == Round(SESSION, 1, 8, (4, 5), 0, False)
    assert beyond(whole, 9) == Round(SESSION, 1, 9, (5,), 0, False)
    assert beyond(whole, 10) is None


def test_more_of_a_tree_is_behind_all_text() -> None:
    assert (MORE.num_text, MORE.num_kept, MORE.end) == (0, 0, MORE.position)
    assert beyond(MORE, 1000) == MORE


def test_a_round_without_its_newest_token_is_not_judged() -> None:
    assert beyond(Round(SESSION, 1, 5, (1, 2, 3), 2, True), 6) == Round(SESSION, 1, 6, (2, 3), 0, False)


SHAPES = {6: "b73c8b1cd4ad974c6a963dd7b8d91ef24b6442a39e28e73ba6096821380f537d"}
"""By version of the protocol, the hash of its messages' shapes."""


def without_words(schema: Any) -> Any:
    """A schema without what is for people."""
    if isinstance(schema, dict):
        return {key: without_words(value) for key, value in schema.items() if key not in ("title", "description")}
    return [without_words(value) for value in schema] if isinstance(schema, list) else schema


def test_no_message_changes_without_a_new_version() -> None:
    """Of nodes that are released: until then, a version's hash may be written anew."""
    shapes = json.dumps(without_words(msgspec.json.schema(AnyMessage)), sort_keys=True)
    assert {PROTOCOL: hashlib.sha256(shapes.encode()).hexdigest()} == SHAPES
