"""Can this family be served exactly? Asked of its configuration, then of the loaded stage by running a few tokens.

The checks hold no list of families. They ask for what the rest relies on: every layer of the span attends through our
function once and sees what a causal mask with its window shows; a text sent in pieces, or packed with another, gives
what it gives alone; and nothing but hidden states and positions passes from layer to layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from swarm.errors import ModelUnsupported
from swarm.model.attention import NAME, attend
from swarm.model.layers import find_decoder, find_layers
from swarm.model.stage import Slice, Stage
from swarm.progress import Progress

_LAYER_TYPES = {"full_attention", "sliding_attention"}
_QUANTIZATIONS = {"quantization_config", "compression_config", "quantization"}
_TOLERANCE = {torch.float32: 1e-3}
_ROUGH_TOLERANCE = 0.3
"""Of 16-bit or quantized stages: the rounding differs with the batch, and may send a token to another expert."""
_MISFITS = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What a model's own code raises when it is run in a way that it was not made for."""


def check_config(config: Any) -> None:
    """Raises ModelUnsupported where the configuration already rules serving out."""
    family, text = config.model_type, config.get_text_config(decoder=True)
    if config.is_encoder_decoder:
        raise ModelUnsupported(f"{family} is an encoder-decoder; only decoders can be served")
    stated = next(_quantizations(config.to_dict()), None)
    if stated is not None:
        raise ModelUnsupported(
            f"config.json says by {stated} that the weights of this {family} are already quantized: take the"
            " unquantized model"
        )
    other = set(getattr(text, "layer_types", None) or ()) - _LAYER_TYPES
    if other:
        raise ModelUnsupported(f"{family} has {min(other)} layers; only attention to a cache can be served")


def _quantizations(settings: Mapping[str, Any]) -> Iterator[str]:
    """Names of the settings, at any depth, that state a format of quantized weights."""
    for name, value in settings.items():
        if name in _QUANTIZATIONS and value:
            yield name
        elif isinstance(value, Mapping):
            yield from _quantizations(value)


def check_class(model: PreTrainedModel) -> None:
    """Raises ModelUnsupported where the model class, not yet loaded, rules serving out."""
    family = model.config.model_type
    if not model._supports_attention_backend:
        raise ModelUnsupported(f"{family} does not dispatch through transformers' AttentionInterface")
    decoder = find_decoder(model)[1]
    for name, child in decoder.named_children():
        if isinstance(child, nn.Embedding) and child is not decoder.get_input_embeddings():
            raise ModelUnsupported(
                f"{family} has a second embedding, {name}: absolute positions and the like are not served"
            )


def check_stage(stage: Stage, *, exact: bool, progress: Progress | None = None) -> None:
    """Raises ModelUnsupported if the loaded stage cannot be served; `exact` says that its weights are as on disk."""
    tolerance = _TOLERANCE.get(stage.dtype, _ROUGH_TOLERANCE) if exact else _ROUGH_TOLERANCE
    checks: tuple[Callable[[Stage], None], ...] = (
        _check_rules,
        _check_order,
        partial(_check_sessions, tolerance=tolerance),
    )
    progress = progress or Progress()
    try:
        for i, check in enumerate(checks):
            progress.at("checking that its layers can be served exactly", i, len(checks))
            check(stage)
    except torch.OutOfMemoryError:
        raise
    except _MISFITS as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        raise ModelUnsupported(f"{stage.info.family} does not run as a packed span of layers ({reason})") from error
    if not stage.cache_bytes_per_token:
        raise _refuse(stage, "its layers keep no keys and values")


def _refuse(stage: Stage, reason: str) -> ModelUnsupported:
    return ModelUnsupported(f"{stage.info.family} cannot be served exactly: {reason}")


def _sample(stage: Stage, tokens: int, seed: int) -> Tensor:
    """An input of so many tokens: ids, or hidden states of a common size."""
    generator = torch.Generator().manual_seed(seed)
    if stage.is_first:
        return torch.randint(stage.info.vocab_size, (tokens,), generator=generator)
    return torch.randn(tokens, stage.info.hidden_size, generator=generator)


def _run(stage: Stage, inputs: Tensor) -> Tensor:
    """A text run alone in one piece."""
    return stage.forward([Slice(stage.new_cache(), 0, inputs, num_logits=len(inputs))])[0]


# --- what each layer attends to ---------------------------------------------------------------------------------


def _check_rules(stage: Stage) -> None:
    """Every layer attends once, to what transformers' own mask for it would show."""
    calls: list[tuple[int, int | None, Any]] = []
    token = _calls.set(calls)
    stage.model.config._attn_implementation = _RECORDING
    try:
        _run(stage, _sample(stage, 2, seed=0))
    finally:
        stage.model.config._attn_implementation = NAME
        _calls.reset(token)
    if [layer for layer, _, _ in calls] != list(range(stage.span.start, stage.span.end)):
        raise _refuse(stage, "its layers do not each attend once through transformers' AttentionInterface")
    for layer, window, rule in calls:
        if rule is not None and not _same_rule(rule, window):
            raise _refuse(stage, f"layer {layer} masks attention in a way of its own")


_calls: ContextVar[list[tuple[int, int | None, Any]]] = ContextVar("calls")
"""Of the check that runs in this thread: layer, sliding window and mask rule of every attention call."""

_RECORDING = f"{NAME}-recording"


def _attend_recording(module: nn.Module, *tensors: Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
    """`attend`, noting what the model asks for; `attention_mask` is the model's own rule for this layer."""
    query, key, value, *rule = tensors
    noted = rule[0] if rule else attention_mask
    _calls.get().append((int(module.layer_idx), kwargs.get("sliding_window"), noted))  # type: ignore[arg-type]
    return attend(module, query, key, value, None, **kwargs)


AttentionInterface.register(_RECORDING, _attend_recording)
AttentionMaskInterface.register(_RECORDING, lambda *_, mask_function, **__: mask_function)


def _same_rule(rule: Callable[..., Any], window: int | None) -> bool:
    """Whether a mask function of transformers is the causal rule with a sliding window of so many tokens."""
    edge = [0] if window is None else [0, window - 1, window]
    distances = torch.tensor(sorted({-1, 1, 1000, 100_000, *edge}))
    query = torch.full_like(distances, 200_000)
    zero = torch.zeros((), dtype=torch.long)
    seen = [bool(rule(zero, zero, q, q - d)) for q, d in zip(query, distances, strict=True)]
    ours = (distances >= 0) & (distances < (window if window is not None else 1 << 30))
    return seen == ours.tolist()


# --- what passes between layers, and around them ----------------------------------------------------------------


def _check_order(stage: Stage) -> None:
    """Weights in front of the layers act before them, those behind after them, and layers share nothing else."""
    decoder = find_decoder(stage.model)[1]
    name, layers = find_layers(decoder)
    order: list[str] = []
    given: list[list[Tensor]] = []
    children = dict(decoder.named_children())
    hooks = [
        child.register_forward_pre_hook(lambda *_, label=label: order.append(label))
        for label, child in (children | {name: layers[0]}).items()
    ]
    hooks.append(
        layers[stage.span.start].register_forward_pre_hook(
            lambda _, args, kwargs: given.append(list(_tensors((args[1:], kwargs)))), with_kwargs=True
        )
    )
    try:
        for seed in (1, 2):
            order.clear()
            _run(stage, _sample(stage, 2, seed))
    finally:
        for hook in hooks:
            hook.remove()
    labels, after = list(children), order[order.index(name) :]
    for label in {*order} - {name}:
        has_role = isinstance(children[label], nn.Identity) or next(children[label].parameters(), None) is not None
        if has_role and (labels.index(label) > labels.index(name)) != (label in after):
            raise _refuse(stage, f"its {label} does not act where it is defined")
    if any(not torch.equal(one, two) for one, two in zip(*given, strict=True)):
        raise _refuse(stage, "its layers are given more than hidden states and positions")


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


# --- sessions ---------------------------------------------------------------------------------------------------


def _check_sessions(stage: Stage, tolerance: float) -> None:
    """Two texts packed, one of them in pieces, give what each gives alone."""
    one, two = _sample(stage, 4, seed=3), _sample(stage, 3, seed=4)
    alone = [_run(stage, one), _run(stage, two)]
    cache = stage.new_cache()
    head = stage.forward([Slice(cache, 0, one[:2], num_logits=2)])[0]
    tail, other = stage.forward(
        [Slice(cache, 2, one[2:], num_logits=2), Slice(stage.new_cache(), 0, two, num_logits=3)]
    )
    for expected, got in zip(alone, (torch.cat([head, tail]), other), strict=True):
        if not torch.isfinite(expected).all():
            wrong = _wrong_weight(stage)
            overflows = f"it overflows in {stage.dtype}"
            raise _refuse(stage, f"its weight {wrong} has values that are no numbers" if wrong else overflows)
        if (got - expected).float().norm() > tolerance * expected.float().norm():
            raise _refuse(stage, "a text's output depends on how it is cut or on what it is packed with")


def _wrong_weight(stage: Stage) -> str | None:
    """The name of one with a value that is not finite."""
    weights = stage.model.named_parameters()
    return next((name for name, weight in weights if not torch.isfinite(weight).all()), None)
