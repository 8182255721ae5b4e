"""Which model is it? A hash that two nodes share only if their configuration and all weights are the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swarm.progress import Progress

_PIECE = 1 << 20  # bytes that are hashed at a time
_VOLATILE = frozenset(
    {"transformers_version", "_name_or_path", "name_or_path", "dtype", "torch_dtype", "use_cache"}
)


def hash_config(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Hex SHA-256 of a config.json, without what says nothing about the model's function.

    `defaults`: what a setting is that a config.json of this kind does not name. To name one as null is to leave it out
    only where that is null, too.
    """
    text = json.dumps(_canonical(config, defaults), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def combine(config_hash: str, file_hashes: Mapping[str, str]) -> str:
    """Hex SHA-256 of a whole model from its configuration's hash and its weight files' names and hashes."""
    lines = [config_hash, *(f"{name} {file_hashes[name]}" for name in sorted(file_hashes))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file, remembered as long as its size and its times of change stay.

    The time of the inode's change counts, too: archives and images may give all files the same time of change.
    """
    status = path.stat()
    key, stamp = str(path.resolve()), [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    memory = _read_memory()
    known = memory.get(key)
    if isinstance(known, list) and known[:-1] == stamp:
        return str(known[-1])
    digest = _hash(path, status.st_size)
    _write_memory({**_read_memory(), key: [*stamp, digest]})
    return digest


def _hash(path: Path, size: int) -> str:
    progress, digest = Progress(), hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            progress.at(f"hashing {path.name}", file.tell() >> 20, size >> 20, "MiB")
    return digest.hexdigest()


def _canonical(value: Any, default: Any) -> Any:
    """`value` without volatile keys and without settings that say nothing, at every depth."""
    if isinstance(value, Mapping):
        defaults = default if isinstance(default, Mapping) else {}
        return {
            k: _canonical(v, defaults.get(k))
            for k, v in value.items()
            if k not in _VOLATILE and not (v is None and defaults.get(k) is None)
        }
    return [_canonical(v, None) for v in value] if isinstance(value, list) else value


def _memory_path() -> Path:
    """Raises FileNotFoundError if this user has no home."""
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise FileNotFoundError from None
    return Path(cache) / "specswarm" / "weights.json"


def _read_memory() -> dict[str, Any]:
    try:
        return dict(json.loads(_memory_path().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # no memory yet, or a spoilt one: hash again
        return {}


def _write_memory(memory: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a read-only home, or none, only costs hashing again
        path = _memory_path()
        draft = path.with_suffix(f".{os.getpid()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(memory), encoding="utf-8")
        draft.replace(path)
