"""The setting in which Petals was measured: a random Llama of 8 layers that drafts for itself, 4 peers, 128 tokens.

Every draft token is accepted: the best case for both. Petals' figures were measured once, on a machine of the same
kind (2 cores, HEAD of August 2024, fp32, batch 1, median of 3); ours are measured now, beside transformers' own
generate in one process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.deployment import deployed
from benchmarks.lab import Lab

SPANS = ("0:2", "2:4", "4:6", "6:8")
WINDOWS = (0, 4, 8)
TOKENS = 128
REPEATS = 3
PROMPT = list(range(100, 108))

# tokens/s by one-way delay in ms and draft length (0: plain): as published, and with its server-to-server push mended.
PUBLISHED = {
    0: {0: (25.2, 22.5), 4: (34.3, 42.5), 8: (54.9, 57.1)},
    10: {0: (7.8, 10.6), 4: (21.5, 25.2), 8: (31.6, 39.9)},
    25: {0: (3.9, 5.5), 4: (11.4, 15.2), 8: (18.6, 24.0)},
    50: {0: (2.2, 3.2), 4: (7.1, 9.7), 8: (11.8, 15.9)},
}


@dataclass(frozen=True)
class Row:
    """tokens/s at one delay and window."""

    delay_ms: float
    window: int
    tokens_per_second: float
    petals: tuple[float, float] | None
    """As published, and mended; None where it was not measured."""
    one_process: float
    """transformers' generate, in the same run."""


def run(delays: Sequence[float], folder: Path, console: Console) -> list[Row]:
    """Measure every delay and window."""
    folder.mkdir()
    model = _random_llama(folder / "model")
    one_process = _one_process(model)
    console.print(f"transformers in one process: {one_process:.1f} tokens/s")
    rows = []
    with Lab(hosts=len(SPANS) + 2) as lab, deployed(lab, str(model), SPANS, folder) as (initial_peers, client):
        client.connect(model=str(model), initial_peers=initial_peers, draft=str(model), threads=1)
        for delay in delays:
            lab.set_delay(delay)
            for window in WINDOWS:
                speeds = [
                    client.generate(PROMPT, window=window, max_new_tokens=TOKENS)["tokens_per_second"]
                    for _ in range(REPEATS)
                ]
                known = PUBLISHED.get(int(delay), {}).get(window)
                rows.append(Row(delay, window, median(speeds), known, one_process))
                console.print(f"delay {delay:g} ms, window {window}: {rows[-1].tokens_per_second:.1f} tokens/s")
    return rows


def _random_llama(folder: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """The embedded pair's, beside a model of 2,048 tokens."""
    from swarm.model.source import ModelSource

    ModelSource.resolve("embedded").tokenizer().save_pretrained(folder)


def _one_process(folder: Path) -> float:
    """tokens/s of transformers' generate, with one thread or all cores, whichever is faster; median of the repeats."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return max(_generate_speed(model, threads) for threads in {1, os.cpu_count() or 1})


def _generate_speed(model: LlamaForCausalLM, threads: int) -> float:
    torch.set_num_threads(threads)
    ids = torch.tensor([PROMPT])
    speeds = []
    for _ in range(REPEATS + 1):  # the first one warms up
        started = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False)
        speeds.append(TOKENS / (time.perf_counter() - started))
    return median(speeds[1:])
