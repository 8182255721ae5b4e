"""Configuration: one frozen, typed object per program, from a TOML file, the environment and the command line."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from swarm.errors import UsageError

INITIAL_PEERS_VARIABLE = "SPECSWARM_INITIAL_PEERS"


class Config(BaseModel):
    """Base of the programs' configurations: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


T = TypeVar("T", bound=Config)


def load(kind: type[T], section: str, file: Path | None, options: dict[str, Any]) -> T:
    """The program's configuration. An option given (not None, not empty) beats the file's `[section]`, and that the
    environment. Raises UsageError naming the key that is unknown, missing or wrong.
    """
    values = _read(file, section) if file else {}
    values |= {key: value for key, value in options.items() if value not in (None, [], ())}
    if "initial_peers" in kind.model_fields and "initial_peers" not in values:
        values["initial_peers"] = os.environ.get(INITIAL_PEERS_VARIABLE, "").replace(",", " ").split()
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or section
        where = f"{file}: " if file else ""
        raise UsageError(f"{where}{key}: {first['msg']}") from None


def _read(file: Path, section: str) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"configuration file {file}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"configuration file {file}: {error}") from None
    unknown = content.keys() - {"bootstrap", "join", "generate", "status"}
    if unknown:
        raise UsageError(f"configuration file {file}: unknown section [{min(unknown)}]")
    values = content.get(section, {})
    if not isinstance(values, dict):
        raise UsageError(f"configuration file {file}: [{section}] must be a section")
    return values
