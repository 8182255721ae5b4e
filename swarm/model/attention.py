"""The attention of every layer: packed slices, each attending to its own session's cache.

transformers calls `attend` in place of its own attention function, with the queries, keys and values of all packed
tokens; the `Packed` round travels to it as a keyword argument through the model. No model builds a mask: what a
token may see (earlier slots, its ancestors in a tree, a sliding window) is decided here, once per round and window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary
from transformers import AttentionInterface

from swarm.errors import ModelUnsupported
from swarm.model.cache import KVCache
from swarm.speculation.tree import ROOT, depths

NAME = "specswarm"
"""The attention implementation's name in a configuration, and the keyword that carries the round."""

FEW = 16
"""Up to so many tokens, plain matrix products are as fast on a CPU as the fused kernel, and do not start its threads:
those wait for each other for milliseconds a layer where other programs share the cores."""


@dataclass(frozen=True, slots=True)
class View:
    """What a segment's tokens see: slots from `first` on, all of them unless a mask says less."""

    first: int
    mask: Tensor | None = None
    """Added to the scores, [tokens, slots]: 0 or -inf."""
    causal: bool = False
    """Token i sees slots 0..i and no mask is needed."""


@dataclass(slots=True)
class Segment:
    """The tokens of one session within a packed round."""

    cache: KVCache
    position: int
    """All slots before it are visible, windows apart; the tokens' chain or tree begins with it."""
    num_tokens: int
    parents: tuple[int, ...] | None = None
    """Of a tree; its first nodes may be in the cache already, the tokens are the last ones."""
    depths: Sequence[int] = ()
    """Rope position of each token, counted from `position`."""
    slot: int = 0
    """Of the first token."""
    _views: dict[int | None, View] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.parents is None:
            self.depths, self.slot = range(self.num_tokens), self.position
        else:
            self.depths = depths(self.parents)[-self.num_tokens :]
            self.slot = self.position + len(self.parents) - self.num_tokens

    @property
    def end(self) -> int:
        """One past the last slot."""
        return self.slot + self.num_tokens

    def view(self, window: int | None, like: Tensor) -> View:
        """What is visible under a sliding window of so many tokens; masks have the dtype and device of `like`."""
        view = self._views.get(window)
        if view is None:
            view = self._views[window] = self._build_view(window, like)
        return view

    def _build_view(self, window: int | None, like: Tensor) -> View:
        first = 0 if window is None else max(0, self.position - window + 1)
        if self.num_tokens == 1 and self.slot == self.position:
            return View(first)
        fits = window is None or self.num_tokens <= window
        if self.position == 0 and self.parents is None and fits:
            return View(0, causal=True)
        allowed = torch.ones(self.num_tokens, self.end - first, dtype=torch.bool)
        within = allowed[:, self.position - first :]  # [tokens, nodes]
        ours = slice(-self.num_tokens, None)
        within.copy_(torch.tril(within) if self.parents is None else tree_mask(self.parents, self.num_tokens))
        if window is not None:
            places = torch.tensor(self.depths if self.parents is None else depths(self.parents)) + self.position
            seen = torch.cat([torch.arange(first, self.position), places])
            allowed &= places[ours, None] - seen[None, :] < window
        mask = torch.zeros(allowed.shape, dtype=like.dtype).masked_fill_(~allowed, float("-inf"))
        return View(first, mask.to(like.device))


@dataclass(slots=True)
class Packed:
    """A round of many sessions: their segments, one after another, and the activations at the span's edge."""

    segments: list[Segment]
    hidden: Tensor | None = None
    """[1, tokens, hidden]: what enters the span's first layer, then what left its last one."""
    between: Callable[[], None] | None = None
    """Called before and after the attention of each layer; it may run other rounds, of other sessions."""


def tree_mask(parents: Sequence[int], count: int) -> Tensor:
    """[count, nodes] bool: for each of the last `count` nodes, true at itself and at its ancestors."""
    rows: list[bytearray] = []
    for node, parent in enumerate(parents):
        row = bytearray(len(parents)) if parent == ROOT else rows[parent].copy()
        row[node] = True
        rows.append(row)
    return torch.frombuffer(bytearray().join(rows[-count:]), dtype=torch.bool).view(count, -1)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer over a packed round.

    query [1, heads, tokens, dim], key and value [1, kv_heads, tokens, dim] -> [1, tokens, heads, value_dim].
    """
    if has_torch_function_unary(query):  # somebody records torch's calls: this is one of them
        given = (module, query, key, value, attention_mask, scaling, sliding_window, softcap, s_aux)
        return handle_torch_function(attend, (query,), *given, **kwargs)
    packed: Packed | None = kwargs.get(NAME)
    if packed is None:
        raise ModelUnsupported(f"{type(module).__name__} is not given the keyword arguments of the model")
    if attention_mask is not None:
        raise ModelUnsupported(f"{type(module).__name__} makes an attention mask of its own")
    if packed.between is not None:
        packed.between()
    layer: int = module.layer_idx  # type: ignore[assignment]
    outputs, start = [], 0
    queries, keys, values = query[0], key[0], value[0]
    for segment in packed.segments:
        q, k, v = queries, keys, values
        if len(packed.segments) > 1:
            q, k, v = (t.narrow(1, start, segment.num_tokens) for t in (q, k, v))
            start += segment.num_tokens
        segment.cache.write(layer, segment.slot, k, v)
        view = segment.view(sliding_window, query)
        k, v = segment.cache.read(layer, view.first, segment.end)
        is_plain = softcap is None and s_aux is None
        if is_plain and not (q.is_cpu and segment.num_tokens <= FEW):
            outputs.append(_fused(q, k, v, view, scaling))
        else:
            outputs.append(_general(q, k, v, view, scaling, softcap, s_aux))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    if packed.between is not None:
        packed.between()
    return output.transpose(0, 1).contiguous().unsqueeze(0), None


def _fused(q: Tensor, k: Tensor, v: Tensor, view: View, scaling: float | None) -> Tensor:
    """Softmax attention: q [heads, n, dim], k and v [kv_heads, slots, dim] -> [heads, n, value_dim].

    The kv heads are the batch and the query heads of a group its heads, so that keys are never repeated.
    """
    (_, tokens, dim), kv_heads = q.shape, k.shape[0]
    grouped = q.reshape(kv_heads, -1, tokens, dim)
    shape = (-1, grouped.shape[1], -1, -1)
    out = F.scaled_dot_product_attention(
        grouped,
        k.unsqueeze(1).expand(shape),
        v.unsqueeze(1).expand(shape),
        attn_mask=view.mask,
        is_causal=view.causal,
        scale=scaling,
    )
    return out.flatten(0, 1)


def _general(
    q: Tensor, k: Tensor, v: Tensor, view: View, scaling: float | None, softcap: float | None, s_aux: Tensor | None
) -> Tensor:
    """`_fused`, with scores capped to softcap * tanh(scores / softcap) and a sink s_aux [heads] in the softmax."""
    (heads, tokens, dim), (kv_heads, slots, _) = q.shape, k.shape
    rows = q.reshape(kv_heads, -1, dim)  # a group's queries as rows, so that keys are read once for all of them
    scores = torch.bmm(rows, k.transpose(1, 2)).mul_(dim**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    if view.causal or view.mask is not None or s_aux is not None:
        scores = _masked(scores.view(heads, tokens, slots), view, s_aux).view(kv_heads, rows.shape[1], -1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    if s_aux is not None:
        weights = weights[..., :slots]
    return torch.bmm(weights, v).view(heads, tokens, -1)


def _masked(scores: Tensor, view: View, s_aux: Tensor | None) -> Tensor:
    """Scores [heads, n, slots] with the mask added, and with a sink as one slot more."""
    heads, tokens, slots = scores.shape
    if view.causal:
        scores += torch.full((tokens, slots), float("-inf"), dtype=scores.dtype, device=scores.device).triu_(1)
    elif view.mask is not None:
        scores += view.mask
    if s_aux is None:
        return scores
    return torch.cat([scores, s_aux.to(scores.dtype).view(heads, 1, 1).expand(-1, tokens, 1)], dim=-1)


AttentionInterface.register(NAME, attend)
