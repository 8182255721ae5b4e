"""Configuration: one frozen, typed object per program, from a TOML file, the environment and the command line."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from swarm.errors import UsageError
from swarm.user_files import read_bytes

Threads = Annotated[int, Field(ge=1, le=256)]
"""Of a processor; so many that a mistake is told from a large machine."""

INITIAL_PEERS_VARIABLE = "SPECSWARM_INITIAL_PEERS"
SECTIONS = ("bootstrap", "join", "client", "generate")  # of a configuration file
SHARED = ("initial_peers", "swarm_key")  # keys that stand above the sections, for all of them

_NO_PEERS = f"none is given: use --initial-peer, set {INITIAL_PEERS_VARIABLE}, or give a --config file"


class Config(BaseModel):
    """Base of the programs' configurations: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _read_number(cls, value: Any, info: ValidationInfo) -> Any:
        """A number of numpy or torch is one like others; True and False are none."""
        if getattr(value, "ndim", None) == 0:
            value = value.item()
        if isinstance(value, bool) and not _takes_bool(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"it cannot be {value}")
        return value


T = TypeVar("T", bound=Config)


def expanded(path: Path) -> Path:
    """A path whose `~` is the home folder. Raises ValueError if this user has none."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: no home folder is known: give a whole path, or set HOME") from None


def load(kind: type[T], section: str, file: Path | None, options: dict[str, Any]) -> T:
    """The program's configuration: options that are given, then the file's `[section]`, then what stands above the
    sections, and for the initial peers the environment.

    An option is given if it is not None, and no empty list, unless None is what it is by default.

    Raises UsageError naming the key that is unknown, missing or wrong.
    """
    shared, values = _read(file, section) if file else ({}, {})
    given = {key: value for key, value in options.items() if _is_given(kind, key, value)}
    values |= given
    values = {key: value for key, value in shared.items() if key in kind.model_fields} | values
    if "initial_peers" in kind.model_fields and not values.get("initial_peers"):
        values["initial_peers"] = os.environ.get(INITIAL_PEERS_VARIABLE, "").replace(",", " ").split()
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        # A misspelt key explains more than the one that is missing for it.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        key = ".".join(map(str, first["loc"])) or section
        where = f"{file}: " if file and key not in given else ""
        is_empty = key == "initial_peers" and first["type"] == "too_short"
        message = _NO_PEERS if is_empty else first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{where}{key}: {message}") from None


def _is_given(kind: type[Config], key: str, value: Any) -> bool:
    if isinstance(value, list | tuple) and not value:
        return key in kind.model_fields and kind.model_fields[key].default is None
    return value is not None


def _takes_bool(annotation: Any) -> bool:
    return annotation is bool or any(map(_takes_bool, get_args(annotation)))


def _read(file: Path, section: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the file says for all programs, and for this one."""
    try:
        content = tomllib.loads(read_bytes(file).decode())
    except OSError as error:
        raise UsageError(f"configuration file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"configuration file {file}: it is no text: is it the right file?") from None
    except ValueError as error:  # no TOML
        raise UsageError(f"configuration file {file}: {error}") from None
    unknown = content.keys() - {*SECTIONS, *SHARED}
    if unknown:
        raise UsageError(f"configuration file {file}: unknown key or section {min(unknown)!r}")
    for name in SECTIONS:
        if not isinstance(content.get(name, {}), dict):
            raise UsageError(f"configuration file {file}: [{name}] must be a section")
    return {key: content[key] for key in SHARED if key in content}, content.get(section, {})
