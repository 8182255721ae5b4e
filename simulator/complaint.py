"""What is wrong with a scenario's file: which key, on which line, and what is allowed there. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_HEADER = re.compile(r"\s*(\[\[?)([^\[\]]+)\]")
_KEY = re.compile(r"""\s*("[^"]*"|'[^']*'|[\w.-]+)\s*=""")

Path = tuple[str, ...]
"""Of a key: the tables that it is in, and the numbers of those of which there are several; then itself."""


def complaint(text: str, tables: Any, kind: type[BaseModel], error: ValidationError) -> str:
    """Of a file with this text, which holds these tables and should have been of this kind: the first thing wrong."""
    found = [(_in_file(one["loc"], tables, one["type"] == "missing"), one) for one in error.errors()]
    path, first = found[0]
    if first["type"] == "extra_forbidden":
        allowed = "there is no such key; there are " + ", ".join(_table(kind, path[:-1]).model_fields)
    else:  # of what may be of several types, each has said what it wants
        said = [one["msg"].removeprefix("Value error, ") for other, one in found if other == path]
        wanted = [what.removeprefix("Input should be ") for what in said]
        allowed = " or ".join(dict.fromkeys([said[0], *wanted[1:]]))
    line = _line(text, path)
    return f"{f', line {line}' if line else ''}: {'.'.join(path)}: {allowed}"


def _in_file(location: Sequence[int | str], here: Any, is_missing: bool) -> Path:
    """As much of a place as is in the file: what follows tells which of several types did not fit."""
    path = list[str]()
    for part in location:
        try:
            here = here[part]
        except (IndexError, KeyError, TypeError):
            return (*path, str(part)) if is_missing else tuple(path)
        path.append(str(part))
    return tuple(path)


def _table(kind: type[BaseModel], path: Path) -> type[BaseModel]:
    """What a table is declared as."""
    for part in path:
        if part in kind.model_fields:
            kind = next(_tables_in(kind.model_fields[part].annotation))
    return kind


def _tables_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """`Peers`, of `list[Peers]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables_in(argument)


def _line(text: str, path: Path) -> int | None:
    """On which line a key stands; if it does not, the nearest table that should have it."""
    lines = [(number, found) for number, found in _keys(text) if found == path[: len(found)]]
    return max(lines, key=lambda line: len(line[1]), default=(None, ()))[0]


def _keys(text: str) -> Iterator[tuple[int, Path]]:
    """Of each line that begins a table or gives a key, its number and which."""
    table, repeated = Path(), Counter[Path]()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = Path()
            for name in _names(header[2]):
                table = (*table, name)
                if table in repeated:
                    table = (*table, str(repeated[table] - 1))
            if header[1] == "[[":
                name_of_all = table[:-1] if table[-1].isdecimal() else table
                repeated[name_of_all] += 1
                table = (*name_of_all, str(repeated[name_of_all] - 1))
            yield number, table
        elif key := _KEY.match(line):
            yield number, (*table, *_names(key[1]))


def _names(dotted: str) -> list[str]:
    """`clients.arrivals`, or a name in quotes, dots and all."""
    dotted = dotted.strip()
    return [dotted[1:-1]] if dotted[0] in "\"'" else [name.strip() for name in dotted.split(".")]
