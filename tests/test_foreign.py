"""Text of strangers: nothing of it moves a terminal's cursor, turns text round or hides, and names stay names."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from swarm import codec
from swarm.errors import BadMessage, PeerLost, PeerRefused, SpecswarmError, UsageError
from swarm.foreign import cleaner, printable
from swarm.wire import MAX_SIZES, NO_SESSION, SESSION_PROTOCOL, AnyMessage, Refused

NASTY = "a\x1b[2J\n\r\t\x07\x9b1m\u202egnp\u2066\u200b\u200d\ufeff\u2028\u2029\U000e0041\u3164\u00ad\x7fz"


def is_printable(text: str) -> bool:
    """By Unicode's own categories, whatever the code under test takes for shown; joiners are looked at elsewhere."""
    return not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text.replace("\u200d", ""))


@pytest.mark.parametrize(
    "name", ["some/model-7B", "modèle à essayer", "模型　測試", "मॉडल", "نموذج", "👍🏽 🇩🇪 ❤️ 👩‍💻 🏳️‍🌈", "a\\b"]
)
def test_names_of_any_language_stay_as_they_are(name: str) -> None:
    assert printable(name) == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\r\nb\t", r"a\r\nb\t"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\u200bb\ufeffc\u2028d", r"a\u200bb\ufeffc\u2028d"),
        ("a\u200db", r"a\u200db"),
        ("\u200d", r"\u200d"),
        ("\udc80", r"\udc80"),
        ("\U000e0041\U000e0100", r"\U000e0041\U000e0100"),
        ("\u3164\u115f\ufe00", r"\u3164\u115f\ufe00"),
    ],
)
def test_what_is_not_shown_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters() | st.sampled_from(NASTY)), st.none() | st.integers(1, 40))
def test_any_text_becomes_printable_and_stays_so_within_its_limit(text: str, limit: int | None) -> None:
    shown = printable(text, limit)
    assert is_printable(shown)
    assert printable(shown, limit) == shown
    assert limit is None or len(shown) <= limit


EXAMPLES: dict[type[inspect.Type], Callable[[Any], Any]] = {
    inspect.IntType: lambda kind: 1,
    inspect.FloatType: lambda kind: 1.0,
    inspect.BoolType: lambda kind: True,
    inspect.NoneType: lambda kind: None,
    inspect.BytesType: lambda kind: bytes(kind.min_length or 0),
    inspect.LiteralType: lambda kind: kind.values[0],
}


def examples(kind: inspect.Type) -> list[Any]:
    """Values of a type: with nasty text wherever there may be text, and of a union one of each member."""
    match kind:
        case inspect.UnionType(types=members):
            return [value for member in members for value in examples(member)]
        case inspect.StrType(min_length=least, max_length=most):
            return [(NASTY * 2000)[: most or len(NASTY)].ljust(least or 0, "x")]
        case inspect.StructType(cls=cls) | inspect.DataclassType(cls=cls):
            fields = [examples(field.type) for field in kind.fields]
            return [
                cls(*(values[i % len(values)] for values in fields))
                for i in range(max(map(len, fields), default=1))
            ]
        case inspect.VarTupleType(item_type=item, min_length=least):
            return [(value,) * max(least or 0, 1) for value in examples(item)]
        case inspect.TupleType(item_types=items):
            return [tuple(examples(item)[0] for item in items)]
    return [EXAMPLES[type(kind)](kind)]


def texts(value: Any) -> Iterator[str]:
    """All text in a value of builtins."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)


@pytest.mark.parametrize("kind", get_args(AnyMessage), ids=lambda kind: kind.__name__)
def test_text_in_any_field_of_any_message_is_printable_on_both_sides(
    kind: type[AnyMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "_check", lambda message: None)
    for message in examples(inspect.type_info(kind)):
        decoded = codec.decode(msgspec.msgpack.encode(message))  # as a stranger writes it
        assert all(map(is_printable, texts(msgspec.to_builtins(decoded))))
        assert codec.decode(codec.encode(decoded)) == decoded  # so it can be passed on
        assert codec.encode(message) == codec.encode(decoded)


def test_examples_of_messages_have_text_where_their_types_do() -> None:
    with_text = {
        kind.__name__
        for kind in get_args(AnyMessage)
        for message in examples(inspect.type_info(kind))
        if not all(map(is_printable, texts(msgspec.to_builtins(message))))
    }
    assert with_text >= {"Open", "Refused", "Broken", "Relink", "Copy", "Generate", "Generated"}


def test_type_whose_text_would_not_be_found_is_refused() -> None:
    for kind in (dict[str, str], list[str], Any):
        with pytest.raises(TypeError, match="not known"):
            cleaner(inspect.type_info(kind))


def test_text_that_cannot_be_written_is_escaped_on_its_way_out() -> None:
    refusal = Refused(NO_SESSION, "full", "no room for \udc80" + "x" * 2000)
    decoded = codec.decode(codec.encode(refusal))
    assert isinstance(decoded, Refused)
    assert decoded.reason.startswith(r"no room for \udc80xx")
    assert len(codec.encode(refusal)) < MAX_SIZES[SESSION_PROTOCOL]


def test_errors_quote_nothing_that_is_not_shown() -> None:
    errors: list[SpecswarmError] = [
        UsageError(f"no folder {NASTY}"),
        BadMessage(f"not a message: invalid value '{NASTY}'"),
        PeerLost(NASTY, NASTY),
        PeerRefused("peer", "full", NASTY * 1000),
    ]
    assert all(is_printable(str(error)) for error in errors)
    assert all(is_printable(error.reason) for error in errors if isinstance(error, PeerLost | PeerRefused))
    assert len(str(errors[-1])) < 1100
    assert len(str(BadMessage("模" * 20_000_000))) < 10_000  # in no time


def test_message_that_is_none_is_refused_in_printable_words() -> None:
    data = msgspec.msgpack.encode([2, NO_SESSION, NASTY, "reason"])  # no such `why`
    with pytest.raises(BadMessage) as caught:
        codec.decode(data)
    assert is_printable(str(caught.value))
