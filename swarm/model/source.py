"""Where a model comes from: a local folder, the one that ships with the program, or a hub repository.

Only small files are read here. A client never needs more; a peer's weights are fetched by `checkpoint`.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)
from transformers import AutoConfig, AutoTokenizer

from swarm.config import expanded
from swarm.errors import ModelUnsupported, UsageError
from swarm.foreign import printable
from swarm.model import fingerprint

_PACKAGED = Path(__file__).parent.parent / "embedded"
_ALIASES = {"embedded": _PACKAGED / "target", "embedded-draft": _PACKAGED / "draft"}
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What everybody must agree on about a model; a client knows it without any weights."""

    num_layers: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    """Positions 0 to max_positions - 1 can be computed."""
    family: str
    """transformers' `model_type`."""
    config_hash: str
    """Hex SHA-256 of the canonical configuration alone."""


@dataclass(frozen=True)
class ModelSource:
    """A model's files. Get one from `ModelSource.resolve`."""

    name: str
    """As the user wrote it."""
    folder: Path
    """Holds config.json; all of the files, unless `repo` is set."""
    repo: str | None = None
    """Hub id, where the files come from the hub."""
    commit: str | None = None
    """The hub commit that every file is taken from."""
    config: Any = field(default=None, repr=False, compare=False)
    """transformers' configuration."""

    @property
    def label(self) -> str:
        """What to call it before strangers: a hub id, an alias, or the folder's own name; at most 256 characters."""
        own = self.repo or (self.name if self.name in _ALIASES else self.folder.resolve().name)
        return printable(own, 256)

    @classmethod
    def resolve(cls, name: str, revision: str | None = None) -> ModelSource:
        """Find `name`: "embedded", "embedded-draft", a folder, or a hub id at an optional branch, tag or commit.

        Raises UsageError if there is nothing of that name, ModelUnsupported if transformers does not know its kind.
        """
        try:
            folder = _ALIASES.get(name, expanded(Path(name)))
            is_folder = folder.is_dir()
        except (OSError, ValueError) as error:
            raise UsageError(f"model {name[:200]}: {getattr(error, 'strerror', None) or error}") from None
        if is_folder:
            if not (folder / "config.json").is_file():
                raise UsageError(f"{folder} has no config.json: name the folder that holds the model's files")
            return cls(name, folder, config=_read_config(folder))
        if name in _ALIASES or name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise UsageError(f"no model folder {name!r}: give a folder, a hub id (owner/model) or 'embedded'")
        try:
            folder = Path(hf_hub_download(name, "config.json", revision=revision)).parent
        except (HfHubHTTPError, HFValidationError, EntryNotFoundError, OSError) as error:
            raise UsageError(f"no folder {name!r}, and the hub has no such model or is out of reach") from error
        return cls(name, folder, name, folder.name, _read_config(folder))

    @functools.cached_property
    def info(self) -> ModelInfo:
        """The model's sizes and the hash of its configuration."""
        text = self.config.get_text_config(decoder=True)
        return ModelInfo(
            num_layers=text.num_hidden_layers,
            hidden_size=text.hidden_size,
            vocab_size=text.vocab_size,
            max_positions=_max_positions(text),
            family=self.config.model_type,
            config_hash=fingerprint.hash_config(self._read_json("config.json")),
        )

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a text: the generation configuration's, or else the model configuration's."""
        generation = self._read_json("generation_config.json") if self.file("generation_config.json") else {}
        ids = generation.get("eos_token_id")
        if ids is None:
            ids = getattr(self.config.get_text_config(decoder=True), "eos_token_id", None)
        return frozenset([ids] if isinstance(ids, int) else ids or ())

    def tokenizer(self) -> Any:
        """transformers' tokenizer. Raises UsageError if the model has none."""
        try:
            return AutoTokenizer.from_pretrained(self.repo or self.folder, revision=self.commit or "main")
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.name} has no tokenizer that can be read") from error

    @functools.cached_property
    def weight_files(self) -> tuple[str, ...]:
        """Names of the safetensors files that make up the model, sorted; empty if there are none."""
        if self.file(_INDEX):
            return tuple(sorted(set(self._read_json(_INDEX)["weight_map"].values())))
        if self.repo is not None or (self.folder / _SINGLE).is_file():
            return (_SINGLE,)
        return ()

    @functools.cached_property
    def weight_map(self) -> dict[str, str] | None:
        """The index of a sharded model, tensor name to file name; None if it has one file."""
        return dict(self._read_json(_INDEX)["weight_map"]) if self.file(_INDEX) else None

    def file(self, name: str) -> Path | None:
        """Local path of a file, fetched from the hub if it is there; None if the model has no such file.

        Raises UsageError if the hub is out of reach and the file was never fetched.
        """
        if self.repo is None:
            path = self.folder / name
            return path if path.is_file() else None
        try:
            return Path(hf_hub_download(self.repo, name, revision=self.commit))
        except LocalEntryNotFoundError as error:
            raise UsageError(f"cannot fetch {name} of {self.repo}: the hub is out of reach") from error
        except EntryNotFoundError:
            return None

    def fingerprint(self) -> str | None:
        """Hex SHA-256 over the configuration and every weight file; None for a folder without its weights."""
        if not self.weight_files:
            return None
        if self.repo is not None and self.commit is not None:
            hashes = fingerprint.hub_hashes(self.repo, self.commit, self.weight_files)
        else:
            paths = [self.folder / name for name in self.weight_files]
            if not all(path.is_file() for path in paths):
                return None
            hashes = {path.name: fingerprint.file_hash(path) for path in paths}
        return fingerprint.combine(self.info.config_hash, hashes)

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.file(name)
        if path is None:
            raise UsageError(f"{self.name} has no {name}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{path} is no JSON") from error
        return dict(content)


def _read_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except OSError as error:
        raise UsageError(f"{folder / 'config.json'} cannot be read: it is no JSON") from error
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        reason = str(error).split("\n")[0][:200]
        raise ModelUnsupported(f"transformers cannot build the model in {folder}: {reason}") from error


def _max_positions(config: Any) -> int:
    """Positions the model can compute exactly with a cache.

    Some rotary embeddings change all their frequencies once a text passes a length, which would make cached keys
    wrong: such a model ends at that length here.
    """
    limit: int = getattr(config, "max_position_embeddings", None) or 1 << 20
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *(nested for nested in rope.values() if isinstance(nested, dict))):
        if parameters.get("rope_type") == "longrope":
            original: int | None = parameters.get("original_max_position_embeddings")
            limit = min(limit, original or int(getattr(config, "original_max_position_embeddings", limit)))
    return limit
