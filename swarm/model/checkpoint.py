"""Tensors on disk: which of them a carved model needs, and reading those alone, a group at a time."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from swarm.errors import UsageError
from swarm.model.source import ModelSource

Group = dict[str, str]
"""Tensor name to file name, as on disk."""


class Checkpoint:
    """The weight files of a model."""

    def __init__(self, source: ModelSource) -> None:
        """Raises UsageError if the source has no safetensors."""
        self._source = source
        if not source.weight_files:
            raise UsageError(f"{source.name} has no weights here: it needs model.safetensors or its shards")
        if source.weight_map is None:
            name = source.weight_files[0]
            with self._open(name) as file:
                self._where = dict.fromkeys(file.keys(), name)
        else:
            self._where = source.weight_map

    def groups(self, model: PreTrainedModel, mapping: list[Any], layers: str) -> list[Group]:
        """What `model` needs, one group for each layer under the name `layers`, and one for all else.

        `mapping` is transformers' own list of renamings and conversions from tensors on disk to parameters.
        """
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        wanted = model.state_dict()
        groups: defaultdict[str, Group] = defaultdict(dict)
        for name, file in self._where.items():
            target, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, wanted)
            target = target if target in wanted else name
            if target in wanted:
                is_layer = target.startswith(f"{layers}.")
                groups[target.removeprefix(f"{layers}.").split(".")[0] if is_layer else ""][name] = file
        return list(groups.values())

    @contextlib.contextmanager
    def opened(self, group: Group) -> Iterator[dict[str, _OnDisk]]:
        """The group's tensors, read when indexed; their files are open, and mapped into memory, inside only."""
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context(self._open(name)) for name in set(group.values())}
            yield {tensor: _OnDisk(files[file].get_slice(tensor)) for tensor, file in group.items()}

    def _open(self, name: str) -> Any:
        path = self._source.file(name)
        if path is None:
            raise UsageError(f"{self._source.name} lacks {name}, which holds layers of this span")
        try:
            return safe_open(path, framework="pt")
        except SafetensorError as error:
            raise UsageError(f"{path} is no intact safetensors file: fetch it again") from error


class _OnDisk:
    """A tensor that is read, into memory of its own, when it is indexed."""

    def __init__(self, view: Any) -> None:
        self._view = view

    def __getitem__(self, index: Any) -> Tensor:
        return self._view[index].clone()  # type: ignore[no-any-return]
