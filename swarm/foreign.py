"""Text that others wrote, made fit for this node's terminal, logs and answers.

A folder's name or the reason of a refusal may hold what moves a terminal's cursor, turns its text round or hides parts
of it. So all of it is escaped where it comes in, and what lies behind the edge never sees any: messages in
`swarm.codec`, records in `swarm.records`, errors (which quote libraries, which quote strangers) in `swarm.errors`.
Letters of any language and emoji stay as they are. Generated text is none of this, and is never changed.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import inspect

_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Controls, format characters (text direction, zero width, tags), lone surrogates, ends of lines and paragraphs."""
_BLANK = (
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0),
    *(*range(0x180B, 0x1810), *range(0xFE00, 0xFE0E), *range(0xFFF0, 0xFFF9)),
)
"""Letters and marks that Unicode has shown as nothing; all of its plane 14 is besides."""
_INVISIBLE = frozenset(map(chr, _BLANK))
_JOINER, _EMOJI_STYLE = "\u200d", "\ufe0f"

_TEXTLESS = (
    inspect.IntType,
    inspect.FloatType,
    inspect.BoolType,
    inspect.BytesType,
    inspect.NoneType,
    inspect.LiteralType,
)

Clean = Callable[[Any], Any]
"""Gives a value back, with its text made printable."""


def printable(text: str, limit: int | None = None) -> str:
    """The text with all that is not shown escaped as in a Python string, cut to `limit` characters. What it has made
    printable, it leaves as it is."""
    shown = text if limit is None else text[:limit]
    if not (shown.isascii() and shown.isprintable()):
        shown = "".join(c if _is_shown(shown, i) else _escaped(c) for i, c in enumerate(shown))
    if limit is not None and len(shown) > limit:
        return shown[: limit - 1] + "…"
    return shown


def cleaner(kind: inspect.Type) -> Clean | None:
    """What makes all text in values of a type printable, at most as long as the type has it; None if it has none.

    Raises TypeError for a type of which it cannot tell.
    """
    match kind:
        case inspect.StrType():
            limit = kind.max_length
            return lambda text: printable(text, limit)
        case inspect.StructType() | inspect.DataclassType():
            return _fields_cleaner(kind)
        case inspect.VarTupleType() | inspect.TupleType():
            return _tuple_cleaner(kind)
        case inspect.UnionType():
            return _union_cleaner(kind)
    if isinstance(kind, _TEXTLESS):
        return None
    raise TypeError(f"whether {kind} holds text is not known")


def cleaned(value: Any) -> Any:
    """A value of JSON with all its text made printable, keys included."""
    match value:
        case str():
            return printable(value)
        case list():
            return [cleaned(item) for item in value]
        case dict():
            return {printable(key): cleaned(item) for key, item in value.items()}
    return value


def _fields_cleaner(kind: inspect.StructType | inspect.DataclassType) -> Clean | None:
    replace = msgspec.structs.replace if isinstance(kind, inspect.StructType) else dataclasses.replace
    cleans = [(field.name, clean) for field in kind.fields if (clean := cleaner(field.type))]

    def clean_fields(value: Any) -> Any:
        before = {name: getattr(value, name) for name, _ in cleans}
        after = {name: clean(before[name]) for name, clean in cleans}
        return value if after == before else replace(value, **after)

    return clean_fields if cleans else None


def _tuple_cleaner(kind: inspect.VarTupleType | inspect.TupleType) -> Clean | None:
    if isinstance(kind, inspect.VarTupleType):
        clean = cleaner(kind.item_type)
        return clean and (lambda items: tuple(map(clean, items)))
    cleans = [cleaner(item) or _same for item in kind.item_types]
    if all(clean is _same for clean in cleans):
        return None
    return lambda items: tuple(clean(item) for clean, item in zip(cleans, items, strict=True))


def _union_cleaner(kind: inspect.UnionType) -> Clean | None:
    cleans = {_class_of(member): clean for member in kind.types if (clean := cleaner(member))}
    return (lambda value: cleans.get(type(value), _same)(value)) if cleans else None


def _class_of(kind: inspect.Type) -> type:
    match kind:
        case inspect.StructType() | inspect.DataclassType():
            return kind.cls
        case inspect.StrType():
            return str
    return tuple


def _same(value: Any) -> Any:
    return value


def _is_shown(text: str, place: int) -> bool:
    char = text[place]
    if char == _JOINER:  # of several emoji that make up one
        before, after = text[place - 1 : place], text[place + 1 : place + 2]
        return (before == _EMOJI_STYLE or _is_symbol(before)) and _is_symbol(after)
    return not (char in _INVISIBLE or 0xE0000 <= ord(char) < 0xF0000 or unicodedata.category(char) in _UNSEEN)


def _is_symbol(char: str) -> bool:
    return char != "" and unicodedata.category(char) in ("So", "Sk")


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
