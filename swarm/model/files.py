"""The files that make up a model, wherever they lie, and what is wrong with those that are not as they should be."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open

from swarm.errors import UsageError
from swarm.model import fingerprint
from swarm.user_files import read_bytes

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
SUMS = "SHA256SUMS"
"""What `sha256sum *.safetensors` prints: the hashes of shards that need not be here."""

_ADAPTER = "adapter_config.json"
_OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".ckpt")
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\n")
_SUM_LINE = re.compile(r"^([0-9a-fA-F]{64}) [ *](?:\./)?(.+?)\r?$", re.MULTILINE)


class Files(Protocol):
    """A model's files under their names, with / between folders."""

    @property
    def pretrained(self) -> str:
        """Where transformers is to look for them: a folder, or a hub id, and then at `commit`."""

    @property
    def commit(self) -> str | None:
        """Of the hub; None for a folder of the user's own."""

    def has(self, name: str) -> bool:
        """Whether there is a file of that name, on this machine or where it can be fetched from."""

    def names(self) -> Collection[str]:
        """All that are known, those at the top at least."""

    def file(self, name: str) -> Path | None:
        """Where one lies on this machine; None if there is none of that name. Raises UsageError."""

    def sha256(self, name: str) -> str | None:
        """Hex SHA-256 of one; None if there is none of that name here."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of the user's own."""

    path: Path

    @property
    def pretrained(self) -> str:
        """The folder."""
        return str(self.path)

    @property
    def commit(self) -> None:
        """None: what a folder holds may change."""

    def has(self, name: str) -> bool:
        """Whether it lies there."""
        return (self.path / name).is_file()

    def names(self) -> Collection[str]:
        """What lies at its top."""
        return {path.name for path in self.path.iterdir()}

    def file(self, name: str) -> Path | None:
        """Its path, if it is a file. Raises UsageError for a link that leads nowhere, a folder, or the like."""
        path = self.path / name
        if not path.is_file() and os.path.lexists(path):
            raise UsageError(f"{path} is no file, or a link to none: put the file itself there, or remove it")
        return path if path.is_file() else None

    def sha256(self, name: str) -> str | None:
        """Of what the file holds now, or of what Git is to put in its place."""
        path = self.file(name)
        return None if path is None else pointed_hash(path) or weights_hash(path)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UsageError that names the file."""
    try:
        content = json.loads(read_bytes(path).decode())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: fetch it again") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is no JSON object: fetch it again")
    return content


def read_index(path: Path) -> dict[str, str]:
    """Tensor name to file name, of a sharded model. Raises UsageError that names the index."""
    where = read_object(path).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise UsageError(f"{path} has no weight_map, which says which file holds which tensor: fetch it again")
    for file in set(map(str, where.values())):
        if not _is_shard(file):
            raise UsageError(f"{path} names {file!r}, which is no safetensors file in its folder: fetch it again")
    return {str(name): str(file) for name, file in where.items()}


def read_sums(path: Path) -> dict[str, str]:
    """File name to hex SHA-256, from what `sha256sum` printed. Raises UsageError."""
    try:
        lines = read_bytes(path).decode().strip()
        sums = {name: digest.lower() for digest, name in _SUM_LINE.findall(lines)}
        if lines and not sums:
            raise ValueError("in another notation")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no list as sha256sum makes it: make it anew") from error
    return sums


def pointed_hash(path: Path) -> str | None:
    """Hex SHA-256 that a pointer of Git LFS states, which lies in the place of a file not fetched yet; else None."""
    with path.open("rb") as file:
        found = _POINTER.match(file.read(200))
    return found[1].decode() if found else None


def open_weights(path: Path, framework: str = "pt") -> Any:
    """A safetensors file, for torch or "np"; its tensors are not read yet. Raises UsageError if it is cut off, or is
    none."""
    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError) as error:
        remedy = "it is a pointer, `git lfs pull` it" if pointed_hash(path) else "fetch it again"
        raise UsageError(f"{path} is no intact safetensors file: {remedy}") from error


def weights_hash(path: Path) -> str:
    """Hex SHA-256 of a file of weights. Raises UsageError if it is cut off: it would count as another model."""
    with open_weights(path, "np"):  # torch would want as much memory as the file is long
        return fingerprint.file_hash(path)


def find_config(name: str, files: Files) -> Path:
    """The configuration. Raises UsageError where `files` are not those of a whole model, but an adapter, say."""
    if files.has(_ADAPTER):
        raise UsageError(
            f"{name} is an adapter, or holds one beside a model ({_ADAPTER}): merge it into its base model, and give a"
            " folder without it"
        )
    path = files.file(CONFIG)
    if path is None:
        raise UsageError(f"{name} has no {CONFIG}: name the folder that holds the model's files")
    return path


def no_weights(name: str, files: Files) -> UsageError:
    """For want of model.safetensors or its shards: what there is instead."""
    files.file(SINGLE)  # says what is wrong with it, if it is there in some way
    other = min((found for found in files.names() if found.endswith(_OTHER_WEIGHTS)), default=None)
    found = "it has none of them" if other is None else f"it has {other}, which cannot be served"
    return UsageError(f"{name} has no weights here: a peer needs {SINGLE}, or shards with {INDEX}; {found}")


def _is_shard(name: str) -> bool:
    """Whether a name is a plain relative path, spelt in one way only, of a safetensors file."""
    path = PurePosixPath(name)
    is_plain = str(path) == name and name.isprintable() and "\\" not in name
    return is_plain and not path.is_absolute() and ".." not in path.parts and path.suffix == ".safetensors"
