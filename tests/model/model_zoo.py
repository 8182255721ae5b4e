"""Tiny models with random weights, of many families, saved as a user's folder would be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from swarm.model.source import ModelSource
from swarm.model.stage import Slice, Stage

VOCAB = 96
WINDOW = 7

BASE: dict[str, Any] = {
    "num_hidden_layers": 5,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS = BASE | {"head_dim": 8}
SLIDING = BASE | {"sliding_window": WINDOW}
SLIDING_HEADS = HEADS | {"sliding_window": WINDOW}
EXPERTS = BASE | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL_EXPERTS = BASE | {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = BASE | {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 2,
    "n_shared_experts": 1,
}
GPT2_SIZES = {"vocab_size": VOCAB, "n_positions": 256, "n_embd": 32, "n_layer": 5, "n_head": 4}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}

SERVED: dict[str, dict[str, Any]] = {
    "llama": BASE,
    "mistral": SLIDING,
    "qwen2": SLIDING | {"use_sliding_window": True, "max_window_layers": 2},
    "qwen3": HEADS,
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 16},
    "qwen3_moe": EXPERTS | {"head_dim": 8, "mlp_only_layers": [1]},
    "gemma": HEADS,
    "gemma2": SLIDING_HEADS | {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "gemma3_text": SLIDING_HEADS | {"query_pre_attn_scalar": 8, "sliding_window_pattern": 3},
    "gemma3": {  # the text half of a model that also sees
        "text_config": SLIDING_HEADS | {"query_pre_attn_scalar": 8, "sliding_window_pattern": 3},
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        "mm_tokens_per_image": 4,
    },
    "vaultgemma": SLIDING_HEADS | {"query_pre_attn_scalar": 8},
    "phi": BASE,
    "phi3": SLIDING,
    "olmo": BASE,
    "olmo2": BASE,
    "olmo3": SLIDING | ROPE,
    "olmoe": EXPERTS,
    "flex_olmo": EXPERTS | ROPE,
    "mixtral": SLIDING | LOCAL_EXPERTS,
    "granite": BASE | {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    "granitemoe": LOCAL_EXPERTS | {"embedding_multiplier": 3.0},
    "cohere": BASE,
    "cohere2": SLIDING_HEADS,
    "starcoder2": SLIDING,
    "gpt_neox": BASE,
    "gpt_oss": SLIDING_HEADS | LOCAL_EXPERTS | ROPE,
    "smollm3": BASE,
    "glm": HEADS,
    "glm4": HEADS,
    "glm4_moe": EXPERTS
    | {"head_dim": 8, "n_routed_experts": 4, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    "glm4_moe_lite": LATENT,
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "dots1": LATENT,
    "ministral": SLIDING_HEADS,
    "ministral3": HEADS,
    "hunyuan_v1_dense": HEADS,
    "hunyuan_v1_moe": HEADS | {"num_experts": 4, "moe_topk": 2},
    "ernie4_5": HEADS,
    "ernie4_5_moe": HEADS
    | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_layer_start_index": 1},
    "seed_oss": HEADS,
    "exaone4": SLIDING_HEADS | {"sliding_window_pattern": 4},
    "apertus": BASE | ROPE,
    "minimax_m2": HEADS | LOCAL_EXPERTS | {"rotary_dim": 4},
    "helium": HEADS,
    "persimmon": BASE,
    "arcee": BASE,
    "jais2": HEADS,
    "nanochat": BASE,
    "afmoe": SLIDING_HEADS
    | EXPERTS
    | {"head_dim": 8, "global_attn_every_n_layers": 2, "num_dense_layers": 1, "num_shared_experts": 1},
}
"""Family to the settings of a tiny model of it."""

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gpt2": (GPT2_SIZES, "second embedding"),
    "gpt_bigcode": (GPT2_SIZES, "second embedding"),
    "opt": (BASE | {"ffn_dim": 48, "word_embed_proj_dim": 32}, "second embedding"),
    "falcon": (BASE, "AttentionInterface"),
    "bloom": (BASE, "AttentionInterface"),
    "gptj": (GPT2_SIZES | {"rotary_dim": 4}, "AttentionInterface"),
    "stablelm": (BASE, "AttentionInterface"),
    "diffllama": (BASE, "AttentionInterface"),
    "nemotron": (HEADS, "keyword arguments"),
    "qwen3_next": (EXPERTS | {"head_dim": 8}, "linear_attention"),
    "llama4_text": (
        HEADS | {"num_local_experts": 4, "intermediate_size_mlp": 48, "attention_chunk_size": 8},
        "chunked_attention",
    ),
    "mamba": ({"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 5}, "linear_attention"),
}
"""Family to its settings, and a word of the reason that the user is given."""


def build(family: str, settings: dict[str, Any] | None = None, seed: int = 0) -> Any:
    """transformers' whole model with weights large enough that every part of it matters."""
    logging.disable_progress_bar()
    config = AutoConfig.for_model(family, **(SERVED[family] if settings is None else settings))
    config.dtype = "float32"
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.15 if parameter.ndim > 1 else parameter + noise * 0.1)
    return model


def save(model: Any, folder: Path, shard_size: str = "20KB") -> ModelSource:
    """Write a model as transformers does, in shards, and find it again."""
    model.save_pretrained(folder, max_shard_size=shard_size)
    return ModelSource.resolve(str(folder))


def shards_without(source: ModelSource, *words: str) -> set[str]:
    """The files in which no tensor has one of `words` in its name."""
    where = source.weight_map or {}
    return set(where.values()) - {file for name, file in where.items() if any(word in name for word in words)}


def whole_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits [n, vocab] of transformers' whole model over ids [n]."""
    with torch.inference_mode():
        logits: torch.Tensor = model(ids[None]).logits[0].float()
    return logits


def random_ids(count: int, seed: int) -> torch.Tensor:
    """Token ids [count]."""
    return torch.randint(3, VOCAB, (count,), generator=torch.Generator().manual_seed(seed))


class Chain:
    """Stages that make up a model, and the caches of several sessions on each."""

    def __init__(self, stages: Sequence[Stage], sessions: int = 1) -> None:
        self.stages = stages
        self.caches = [[stage.new_cache() for _ in range(sessions)] for stage in stages]

    def run(
        self,
        *rounds: tuple[int, torch.Tensor] | tuple[int, torch.Tensor, tuple[int, ...]],
        between: Callable[[int], None] | None = None,
    ) -> list[torch.Tensor]:
        """One packed round, (position, ids) or (position, ids, parents) per session; logits for every token. `between`
        is called at each layer, with the number of its stage."""
        values = [piece[1] for piece in rounds]
        for number, (stage, caches) in enumerate(zip(self.stages, self.caches, strict=True)):
            slices = [
                Slice(cache, piece[0], value, piece[2] if len(piece) == 3 else None, num_logits=len(piece[1]))
                for cache, piece, value in zip(caches, rounds, values, strict=True)
            ]
            values = stage.forward(slices, None if between is None else partial(between, number))
        return values

    def compact(self, session: int, base: int, kept: Sequence[int]) -> None:
        """Keep one path of a tree round in every stage's cache."""
        for caches in self.caches:
            caches[session].compact(base, kept)
