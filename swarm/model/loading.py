"""Building a stage: transformers' own model class without memory, carved to a span, then the span's tensors alone."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from swarm.errors import ModelUnsupported, UsageError
from swarm.model.attention import NAME
from swarm.model.checkpoint import Checkpoint
from swarm.model.layers import carve, find_decoder, find_layers
from swarm.model.quantize import Quantization, quantize_linears
from swarm.model.selfcheck import check_class, check_config, check_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Stage
from swarm.model.threads import settle
from swarm.progress import Progress
from swarm.span import Span


def load_stage(
    source: ModelSource,
    span: Span,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantize: Quantization | None = None,
    choose_threads: bool = False,
) -> Stage:
    """Load the layers of `span`, with the embeddings or the head where it reaches them.

    With `choose_threads`, this thread's number of processor threads is lowered to what pays for these layers.
    Raises UsageError if the model has fewer layers or its weights are not here, ModelUnsupported if its family cannot
    be served exactly.
    """
    if span.end > source.info.num_layers:
        raise UsageError(f"layers {span} do not exist: {source.name} has {source.info.num_layers} layers")
    check_config(source.config)
    check_device(device)
    progress = Progress()
    with _quiet():
        whole = build_on_meta(source.config, dtype)
        check_class(whole)
        model = carve(whole, span)
        _place_buffers(model, device)
        _read_weights(
            model,
            source,
            device=device,
            dtype=dtype,
            quantize=quantize,
            is_last=span.end == source.info.num_layers,
            progress=progress,
        )
    model.eval().requires_grad_(False)
    stage = Stage(model, source.info, span, dtype)
    check_stage(stage, exact=quantize is None, progress=progress)
    if choose_threads:
        settle(stage)
    stage.flatten(progress)
    return stage


def check_device(device: str) -> None:
    """Raises UsageError if torch cannot use a device of that name here."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise UsageError(
            f"device {device!r} cannot be used here ({reason}): give cpu, cuda or cuda:1, ..."
        ) from None


def build_on_meta(config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """transformers' model of `config` with our attention, without memory. Raises ModelUnsupported if it cannot be."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                copy.deepcopy(config), dtype=dtype, attn_implementation=NAME, trust_remote_code=False
            )
    except KeyError as error:
        if error.args == (NAME,):
            raise ModelUnsupported(f"{config.model_type} does not dispatch through AttentionInterface") from error
        raise ModelUnsupported(f"transformers knows no {error} that {config.model_type} is to have") from error
    except MemoryError:  # of this machine, whatever the model
        raise
    except Exception as error:  # of many kinds: a model's own code is given a stranger's numbers
        reason = str(error).split("\n")[0][:200]
        raise ModelUnsupported(f"transformers has no text decoder for {config.model_type}: {reason}") from error


def _place_buffers(model: PreTrainedModel, device: str) -> None:
    """Compute the buffers that no checkpoint holds (rotary frequencies, scales) by the model's own initialisation."""
    for name, buffer in list(model.named_non_persistent_buffers()):
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path)._buffers[leaf] = torch.empty_like(buffer, device=device)
    model.initialize_weights()  # parameters are still on the meta device, where this does nothing


def _read_weights(
    model: PreTrainedModel,
    source: ModelSource,
    *,
    device: str,
    dtype: torch.dtype,
    quantize: Quantization | None,
    is_last: bool,
    progress: Progress,
) -> None:
    """Read layer by layer, so that no more than one is held twice. Raises ModelUnsupported if a tensor is not there."""
    path, decoder = find_decoder(model)
    name, layers = find_layers(decoder)
    mapping = get_model_conversion_mapping(model)
    plan = model._get_dtype_plan(dtype)
    config = LoadStateDictConfig(device_map={"": device}, dtype=dtype, dtype_plan=plan, weight_mapping=mapping)
    checkpoint = Checkpoint(source)
    missing = set(model.state_dict())
    groups = checkpoint.groups(model, mapping, f"{path}.{name}")
    for i, group in enumerate(groups):
        progress.at(f"reading {source.name}", i, len(groups), "parts")
        with checkpoint.opened(group) as tensors:
            loaded, _ = convert_and_load_state_dict_in_model(model, tensors, config)
        misfits = [*(name for name, *_ in loaded.mismatched_keys), *loaded.conversion_errors]
        if misfits:
            raise ModelUnsupported(
                f"the weights of {source.name} do not fit its config.json: {min(misfits)} is of another size, or a part"
                " of it is missing"
            )
        missing &= loaded.missing_keys
        if quantize is not None:
            quantize_linears(layers, quantize)
    if is_last:
        model.tie_weights(missing_keys=missing, recompute_mapping=False)
    if missing:
        raise ModelUnsupported(f"the weights of {source.name} lack {min(missing)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars, one per layer here, off the screen."""
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
