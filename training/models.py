"""The two Llama shapes, their cost, and how they are written to and read from a folder."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MAX_POSITIONS = 2048


def target_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """8 layers of 256: 6.3 M parameters with a vocabulary of 2048."""
    return _config(tokenizer, layers=8, hidden=256, inner=688, heads=4, key_value_heads=2)


def draft_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """2 layers of 192: 1.2 M parameters, 19 % of the target's cost."""
    return _config(tokenizer, layers=2, hidden=192, inner=512, heads=3, key_value_heads=1)


def new_model(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """A freshly initialised float32 model; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return _for_training(LlamaForCausalLM(config))


def num_parameters(model: LlamaForCausalLM) -> int:
    """Parameters, the embedding shared with the head counted once.

    A token's forward pass costs two operations for each of them (attention over the context comes on top), so the
    ratio of two models' counts is the ratio of their costs.
    """
    return sum(parameter.numel() for parameter in model.parameters())


def save_model(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write one model of the pair: bfloat16 tensors (half the size), which load as float32 by the config's dtype."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(folder)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)


def load_model(folder: Path) -> LlamaForCausalLM:
    """One model of the pair, float32, in evaluation mode."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return _for_training(model).eval()


def _for_training(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Attention by plain matrix products: on a CPU and in bfloat16, half the time of torch's fused attention."""
    model.set_attn_implementation("eager")
    return model


def _config(
    tokenizer: PreTrainedTokenizerFast, *, layers: int, hidden: int, inner: int, heads: int, key_value_heads: int
) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=64,
        max_position_embeddings=MAX_POSITIONS,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        dtype="float32",
    )
