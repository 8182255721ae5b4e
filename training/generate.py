"""Batched greedy continuation with a key-value cache, and how much a text repeats itself."""

import torch
from transformers import DynamicCache, LlamaForCausalLM

ORDER = 8  # length of the n-grams by which repetition is measured


@torch.no_grad()
def continue_greedily(model: LlamaForCausalLM, prompts: torch.Tensor, num_new: int) -> torch.Tensor:
    """`prompts` [rows, length] with `num_new` greedy tokens after each: [rows, length + num_new].

    The end-of-text token does not stop a row; what follows it is a new document.
    """
    cache = DynamicCache(config=model.config)
    pieces, step = [prompts], prompts
    for _ in range(num_new):
        logits = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        step = logits[:, -1].argmax(dim=-1, keepdim=True)
        pieces.append(step)
    return torch.cat(pieces, dim=1)


def repeats(tokens: list[int], order: int = ORDER) -> list[bool]:
    """For every token, whether it ends an n-gram of `order` tokens that was in `tokens` before."""
    seen: set[tuple[int, ...]] = set()
    marks = [False] * min(order - 1, len(tokens))
    for end in range(order, len(tokens) + 1):
        gram = tuple(tokens[end - order : end])
        marks.append(gram in seen)
        seen.add(gram)
    return marks


def repeated_share(tokens: list[int], order: int = ORDER) -> float:
    """Share of the n-grams in `tokens` that were there before (seq-rep-n of Welleck et al. 2019); 0 if too short."""
    num_grams = len(tokens) - order + 1
    return sum(repeats(tokens, order)) / num_grams if num_grams > 0 else 0.0
