"""Where a model comes from: a local folder, the one that ships with the program, or a hub repository.

Only small files are read here. A client never needs more; a peer's weights are fetched by `checkpoint`.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from swarm.config import expanded
from swarm.errors import ModelUnsupported, UsageError
from swarm.foreign import printable
from swarm.model import fingerprint
from swarm.model.defaults import GenerationDefaults
from swarm.model.files import (
    CONFIG,
    INDEX,
    SINGLE,
    SUMS,
    Files,
    Folder,
    find_config,
    no_weights,
    read_index,
    read_object,
    read_sums,
)
from swarm.model.hub import Snapshot
from swarm.span import MAX_LAYERS

_PACKAGED = Path(__file__).parent.parent / "embedded"
_ALIASES = {"embedded": _PACKAGED / "target", "embedded-draft": _PACKAGED / "draft"}
_VOCABULARIES = ("tokenizer.json", "tekken.json", "vocab*", "*.model", "*.tiktoken")
_MAX_SIZE = 1 << 24  # of a vocabulary, and of hidden states
_QUANTIZATION = "hf_quant_config.json"  # of NVIDIA's ModelOpt


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
    files: Files
    """In a folder of the user's, or of the hub."""
    config: Any = field(default=None, repr=False, compare=False)
    """transformers' configuration."""

    @property
    def label(self) -> str:
        """What to call it before strangers: a hub id, an alias, or the folder's own name; at most 256 characters."""
        is_named = self.name in _ALIASES or not isinstance(self.files, Folder)
        return printable(self.name if is_named else Path(self.files.pretrained).resolve().name or "model", 256)

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
        if os.fsencode(folder).decode(errors="replace") != str(folder):
            raise UsageError(f"model {name}: what reads weights takes no path that is not UTF-8: rename it")
        files: Files
        if revision is not None and (is_folder or name in _ALIASES):
            raise UsageError(f"{name} has no revision {revision!r}: that is for models of the hub")
        if is_folder:
            files = Folder(folder)
        elif folder.is_file():
            raise UsageError(f"{name} is a file: name the folder that holds the model's files")
        elif name in _ALIASES or name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise UsageError(f"no model folder {name!r}: give a folder, a hub id (owner/model) or 'embedded'")
        else:
            files = Snapshot.find(name, revision)
        return cls(name, files, _read_config(find_config(str(folder), files)))

    @functools.cached_property
    def info(self) -> ModelInfo:
        """The model's sizes and the hash of its configuration. Raises ModelUnsupported if it is no language model."""
        try:
            text = self.config.get_text_config(decoder=True)
            return ModelInfo(
                num_layers=_size(text, "num_hidden_layers", MAX_LAYERS),
                hidden_size=_size(text, "hidden_size", _MAX_SIZE),
                vocab_size=_size(text, "vocab_size", _MAX_SIZE),
                max_positions=_max_positions(text),
                family=self.config.model_type,
                config_hash=fingerprint.hash_config(self._read_json(CONFIG), type(self.config)().to_dict()),
            )
        except (AttributeError, ValueError) as error:
            raise ModelUnsupported(f"{self.config.model_type} is no language model: {error}") from error

    def generation_defaults(self) -> GenerationDefaults:
        """How the model's own files would have text generated. Raises UsageError that names a file with nonsense."""
        config = find_config(self.name, self.files)
        return GenerationDefaults.read(self.file("generation_config.json"), config, self.info.vocab_size)

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a text. Raises as `generation_defaults` does."""
        return frozenset(self.generation_defaults().eos_token_id)

    def tokenizer(self) -> Any:
        """transformers' tokenizer. Raises UsageError if the model has none."""
        present = sorted(n for n in self.files.names() if any(fnmatch(n, kind) for kind in _VOCABULARIES))
        if not present:
            raise UsageError(f"{self.name} has no tokenizer: it needs {_VOCABULARIES[0]}")
        try:
            return AutoTokenizer.from_pretrained(self.files.pretrained, revision=self.files.commit or "main")
        except Exception as error:  # of many kinds, down to the bare class
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{self.name}: its tokenizer ({', '.join(present)}) cannot be read: {reason}"
            ) from error

    @functools.cached_property
    def weight_files(self) -> tuple[str, ...]:
        """Names of the safetensors files that make up the model, sorted; empty if there are none."""
        if self.weight_map is not None:
            return tuple(sorted(set(self.weight_map.values())))
        return (SINGLE,) if self.files.has(SINGLE) else ()

    @functools.cached_property
    def weight_map(self) -> dict[str, str] | None:
        """The index of a sharded model, tensor name to file name; None if it has one file, or none.

        As in transformers, an index beside a whole file does not count. Raises UsageError if it is no such index.
        """
        other = getattr(self.config, "transformers_weights", None)
        if other is not None:
            raise ModelUnsupported(
                f"{self.name}: {CONFIG} has transformers take the weights from {other}: remove that"
            )
        index = None if self.files.has(SINGLE) else self.file(INDEX)
        return None if index is None else read_index(index)

    def check_plain(self) -> None:
        """Raises ModelUnsupported if a file beside the weights says that they are quantized."""
        stated = self._read_json(_QUANTIZATION).get("quantization") if self.file(_QUANTIZATION) else None
        if isinstance(stated, dict) and stated.get("quant_algo"):
            raise ModelUnsupported(
                f"{self.name}: {_QUANTIZATION} says that the weights are quantized: take the unquantized model"
            )

    def file(self, name: str) -> Path | None:
        """Local path of a file, fetched from the hub if it is there; None if the model has no such file.

        Raises UsageError if it cannot be fetched.
        """
        return self.files.file(name)

    def fingerprint(self) -> str | None:
        """Hex SHA-256 over the configuration and every weight file, under its name; None if one is not known.

        A file need not be here if SHA256SUMS, or a pointer of Git LFS, states its hash. Raises UsageError if one is not
        what SHA256SUMS says.
        """
        if not self.weight_files or self._unknown_files:
            return None
        return fingerprint.combine(self.info.config_hash, {name: self._sha256(name) for name in self.weight_files})

    def own_fingerprint(self) -> str:
        """The same for a peer, which must know it. Raises UsageError that names what is not here."""
        found = self.fingerprint()
        if found is not None:
            return found
        if not self.weight_files:
            raise no_weights(self.name, self.files)
        lacking = f"{self.name} has no {self._unknown_files[0]}"
        if not isinstance(self.files, Folder):
            raise UsageError(f"{lacking} in the hub's cache: fetch it when the hub is in reach")
        raise UsageError(
            f"{lacking}: a peer needs all weight files, or, beside those of its own layers, the hashes of the others:"
            f" run `sha256sum *.safetensors > {SUMS}` where they are, and copy that file into the folder"
        )

    @property
    def _unknown_files(self) -> list[str]:
        """Weight files that are not here and of which nothing is known."""
        return [name for name in self.weight_files if not self.files.has(name) and name not in self._sums]

    @functools.cached_property
    def _sums(self) -> dict[str, str]:
        """Hashes that a list in the folder states."""
        path = self.files.path / SUMS if isinstance(self.files, Folder) else None
        return read_sums(path) if path is not None and path.is_file() else {}

    def _sha256(self, name: str) -> str:
        """Of a weight file, by itself if it is here."""
        listed = self._sums.get(name)
        found = self.files.sha256(name) if self.files.has(name) else listed
        if listed not in (None, found):
            raise UsageError(
                f"{self.name}: {name} is not the file of which {SUMS} states the hash: fetch both again"
            )
        return str(found)

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.file(name)
        if path is None:
            raise UsageError(f"{self.name} has no {name}")
        return read_object(path)


def _read_config(path: Path) -> Any:
    read_object(path)
    try:
        return AutoConfig.from_pretrained(path.parent, trust_remote_code=False)
    except OSError as error:
        raise UsageError(f"{path} cannot be read by transformers") from error
    except MemoryError:  # of this machine, whatever the model
        raise
    except Exception as error:  # of many kinds: a configuration's own code is given a stranger's values
        reason = str(error).split("\n")[0][:200]
        raise ModelUnsupported(f"transformers cannot build the model of {path}: {reason}") from error


def _size(config: Any, name: str, most: int) -> int:
    """One of the sizes of a model. Raises ModelUnsupported for one that no model has."""
    size = getattr(config, name)
    if type(size) is not int or not 0 < size <= most:
        raise ModelUnsupported(f"{CONFIG}: {name} is {printable(str(size), 40)}: a model has 1 to {most}")
    return size


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
