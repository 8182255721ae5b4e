"""Carving the layers [a, b) out of a whole model.

The carved model keeps transformers' own classes, configuration and layer numbers. Layers outside the span are
replaced by gates that cost nothing: those before it hand on what the previous peer sent (so whatever the model does
to its embeddings happens once, on the first peer), those after it note what left the span. Everything else that has
weights is kept where it is used, the part before the layers on the first peer and the part after them on the last,
and is an Identity elsewhere. The same carving, on a loaded model, gives a view of part of its span.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from swarm.errors import ModelUnsupported
from swarm.model.attention import Packed
from swarm.span import Span


class Before(nn.Module):
    """Stands for a layer ahead of the span: its output is what the previous peer sent."""

    def forward(self, _: Tensor, *__: Any, specswarm: Packed, **___: Any) -> Tensor | None:
        return specswarm.hidden


class After(nn.Module):
    """Stands for a layer behind the span: notes what left the span's last layer."""

    def forward(self, hidden_states: Tensor, *_: Any, specswarm: Packed, **__: Any) -> Tensor:
        specswarm.hidden = hidden_states
        return hidden_states


def find_decoder(model: PreTrainedModel) -> tuple[str, PreTrainedModel]:
    """The module that runs the layers, and its dotted name in `model`."""
    decoder = model.get_decoder()
    return next(name for name, module in model.named_modules() if module is decoder), decoder


def find_layers(decoder: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The decoder's list of layers and its name. Raises ModelUnsupported if there is not exactly one."""
    count = decoder.config.num_hidden_layers
    found = [
        (name, child)
        for name, child in decoder.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    if len(found) != 1:
        raise ModelUnsupported(f"{decoder.config.model_type} does not keep its {count} layers in one list")
    return found[0]


def carve(model: PreTrainedModel, span: Span) -> PreTrainedModel:
    """A shallow copy of `model` that runs only `span`; modules and weights are shared with `model`."""
    path, decoder = find_decoder(model)
    name, layers = find_layers(decoder)
    is_first, is_last = span.start == 0, span.end == len(layers)
    twin = _twin(decoder)
    in_front = True
    for child_name, child in decoder.named_children():
        if child_name == name:
            in_front = False
            continue
        is_head = is_last and bool(model.all_tied_weights_keys) and child is decoder.get_input_embeddings()
        is_used = is_head or (is_first if in_front else is_last)
        if not is_used and _has_weights(child):
            twin._modules[child_name] = nn.Identity()
    twin._modules[name] = nn.ModuleList(
        Before() if i < span.start else After() if i >= span.end else layer for i, layer in enumerate(layers)
    )
    return _graft(model, path.split("."), twin, keep_others=is_last)


def _graft(module: nn.Module, path: list[str], decoder: nn.Module, *, keep_others: bool) -> Any:
    """A shallow copy of `module` with `decoder` at `path`; of its other children `keep_others` keeps the head.

    What stands beside the decoder further down, such as a vision tower, is not used for text.
    """
    twin = _twin(module)
    for name, child in module.named_children():
        if name == path[0]:
            twin._modules[name] = _graft(child, path[1:], decoder, keep_others=False) if path[1:] else decoder
        elif not keep_others and _has_weights(child):
            twin._modules[name] = nn.Identity()
    return twin


def _twin(module: nn.Module) -> nn.Module:
    """A shallow copy whose children can be replaced without touching the original."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
