"""Tensors on disk: which of them a carved model needs, and reading those alone, a group at a time.

Whatever lies on disk for the span is used, or known to be without effect, or refused by name: weights in the format of
a quantization, read as if they were plain, would give garbage without a word.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from swarm.errors import ModelUnsupported, UsageError
from swarm.model.files import no_weights, open_weights
from swarm.model.source import ModelSource

Group = dict[str, str]
"""Tensor name to file name, as on disk."""

_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
_WHOLE = frozenset({"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"})
"""Types on disk, by their names in safetensors, of parameters and of what a model itself keeps as whole numbers."""

_COMPUTED = (r"rotary_emb\.(original_)?inv_freq$", r"rotary_emb\.(cos|sin)_cached$", r"(^|\.)position_ids$")
"""Buffers that older versions of transformers saved; they follow from the configuration."""

_QUANTIZED = re.compile(
    r"scale|zero|qweight|g_idx|packed|absmax|quant|qdata|bitmask|codebook|(_blocks|codes|SCB|Qidxs|W_q|weight_shape)$"
)
"""Names beside the weights of GPTQ, AWQ, FP8, MXFP4, compressed-tensors, bitsandbytes, HQQ, torchao, AQLM, QuIP."""


class Checkpoint:
    """The weight files of a model."""

    def __init__(self, source: ModelSource) -> None:
        """Raises UsageError if the source has no safetensors, ModelUnsupported if it says that they are quantized."""
        self._source = source
        if not source.weight_files:
            raise no_weights(source.name, source.files)
        source.check_plain()
        if source.weight_map is None:
            name = source.weight_files[0]
            self._index = dict.fromkeys(self._types(name), name)
        else:
            self._index = source.weight_map

    def groups(self, model: PreTrainedModel, mapping: list[Any], layers: str) -> list[Group]:
        """What `model` needs, one group for each layer under the name `layers`, and one for all else.

        `mapping` is transformers' own list of renamings and conversions from tensors on disk to parameters. Raises
        UsageError if a file is not here or not what the index says, ModelUnsupported if it holds what is not plain
        weights, or what the span has no use for.
        """
        span = _Span(model, mapping, layers)
        types = {file: self._types(file) for file in sorted(self._files_of(span))}
        where = self._where_in_truth(types, span)
        groups: defaultdict[str, Group] = defaultdict(dict)
        whole: dict[str, str] = {}
        for name, file in where.items():
            target = span.target(name)
            if target in span.wanted:
                self._check_type(name, file, types[file][name], span.wanted[target])
                if not span.is_part(name) and whole.setdefault(target, name) != name:
                    raise ModelUnsupported(f"{self._path(file)} holds {name}, which is {whole[target]} once more")
                is_layer = target.startswith(f"{layers}.")
                groups[target.removeprefix(f"{layers}.").split(".")[0] if is_layer else ""][name] = file
            elif span.holds(target) and not span.ignores(name, target):
                raise self._left_over(name, file, model.config.model_type)
        return list(groups.values())

    @contextlib.contextmanager
    def opened(self, group: Group) -> Iterator[dict[str, _OnDisk]]:
        """The group's tensors, read when indexed; their files are open, and mapped into memory, inside only."""
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context(open_weights(self._path(name))) for name in set(group.values())}
            yield {tensor: _OnDisk(files[file].get_slice(tensor)) for tensor, file in group.items()}

    def _files_of(self, span: _Span) -> set[str]:
        """The files that hold what the span needs, by the index."""
        return {file for name, file in self._index.items() if span.target(name) in span.wanted}

    def _where_in_truth(self, types: Mapping[str, Mapping[str, str]], span: _Span) -> dict[str, str]:
        """The index with what else lies in these files, which transformers would read, too.

        Raises UsageError where index and files contradict each other about something that the span needs.
        """
        where = dict(self._index)
        for name, file in self._index.items():
            if span.target(name) in span.wanted and name not in types[file]:
                raise UsageError(
                    f"{self._path(file)} lacks {name}, which the index says it holds: fetch both again"
                )
        for file, names in types.items():
            for name in names:
                if where.setdefault(name, file) != file and span.target(name) in span.wanted:
                    raise UsageError(
                        f"{self._path(file)} holds {name}, and so does {where[name]}, where the index says it is:"
                        " fetch all again"
                    )
        return where

    def _check_type(self, name: str, file: str, found: str, wanted: Tensor) -> None:
        """Raises ModelUnsupported if values of the type found on disk cannot be those of `wanted` as they are."""
        if found not in (_PLAIN if wanted.is_floating_point() else _WHOLE):
            raise ModelUnsupported(
                f"{self._path(file)} holds {name} as {found}, which is no plain weight: take the unquantized model"
            )

    def _left_over(self, name: str, file: str, family: str) -> ModelUnsupported:
        remedy = (
            "the weights are quantized, take the unquantized model"
            if _QUANTIZED.search(_leaf(name))
            else "its weights and its config.json are of different models"
        )
        return ModelUnsupported(
            f"{self._source.name}: {file} holds {name}, which a {family} does not use: {remedy}"
        )

    def _types(self, name: str) -> dict[str, str]:
        """The tensors in a file, and the types of their values."""
        with open_weights(self._path(name)) as file:
            return {tensor: file.get_slice(tensor).get_dtype() for tensor in file.keys()}  # noqa: SIM118  # no mapping

    def _path(self, name: str) -> Path:
        path = self._source.file(name)
        if path is None:
            raise UsageError(f"{self._source.name} lacks {name}, which holds layers of this span")
        return path


class _Span:
    """What a carved model takes from disk, and what lies beside that in its own modules."""

    def __init__(self, model: PreTrainedModel, mapping: list[Any], layers: str) -> None:
        self.wanted: dict[str, Tensor] = model.state_dict()
        self._prefix = model.base_model_prefix
        self._renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        self._roots = {_root(name, layers) for name in self.wanted} - {*_parents(layers), ""}
        patterns = [*(model._keys_to_ignore_on_load_unexpected or ()), *_COMPUTED]
        self._ignored = re.compile("|".join(f"({pattern})" for pattern in patterns))
        self._targets: dict[str, tuple[str, bool]] = {}

    def target(self, name: str) -> str:
        """The parameter that a tensor on disk becomes, or a part of; not a wanted one if the span does not use it."""
        return self._renamed(name)[0]

    def is_part(self, name: str) -> bool:
        """Whether transformers makes the parameter of this tensor and others, or several parameters of it."""
        return self._renamed(name)[1]

    def _renamed(self, name: str) -> tuple[str, bool]:
        if name not in self._targets:
            found, pattern = rename_source_key(name, self._renamings, self._converters, self._prefix, self.wanted)
            is_as_it_is = found not in self.wanted and name in self.wanted
            self._targets[name] = (name, False) if is_as_it_is else (found, pattern is not None)
        return self._targets[name]

    def holds(self, target: str) -> bool:
        """Whether this would lie within one of the span's layers, or of the modules around them that have weights."""
        spellings = (target, f"{self._prefix}.{target}", target.removeprefix(f"{self._prefix}."))
        return any(not self._roots.isdisjoint(_parents(spelling)) for spelling in spellings)

    def ignores(self, name: str, target: str) -> bool:
        """Whether transformers leaves it out as well, and knows why."""
        return self._ignored.search(target) is not None and not _QUANTIZED.search(_leaf(name))


class _OnDisk:
    """A tensor that is read, into memory of its own, when it is indexed."""

    def __init__(self, view: Any) -> None:
        self._view = view

    def __getitem__(self, index: Any) -> Tensor:
        return self._view[index].clone()  # type: ignore[no-any-return]


def _root(name: str, layers: str) -> str:
    """Of a parameter: its layer, or the module that holds it."""
    if name.startswith(f"{layers}."):
        return f"{layers}.{name.removeprefix(f'{layers}.').split('.')[0]}"
    return name.rpartition(".")[0]


def _parents(name: str) -> set[str]:
    """`a.b` and `a` of `a.b.c`."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def _leaf(name: str) -> str:
    """The last two parts of a name: `weight.absmax`, `q_proj.weight_scale`."""
    return ".".join(name.rsplit(".", 2)[-2:])
