"""Plain next-token training of the target on the corpus."""

import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from training.corpus import Corpus
from training.loop import Measured, Save, train_for
from training.optimiser import PairOptimiser
from training.parallel import num_workers, rank
from training.record import Plan

BATCH_TOKENS = 4096  # per step, over all workers
WINDOWS = (
    (0.0, 256),
    (0.6, 512),
    (0.85, 1024),
)  # (share of the tokens from which on, tokens): short ones are quick


def pretrain(model: LlamaForCausalLM, corpus: Corpus, plan: Plan, save: Save) -> None:
    """Train `model` in place."""
    rng = plan.rng(rank())
    compiled = torch.compile(next_token_loss, dynamic=False)

    def measure(progress: float) -> Measured:
        rows, window = batch_shape(progress)
        return {"loss": compiled(model, corpus.batch(rng, plan.mix, rows, window + 1))}

    train_for(plan, PairOptimiser(model), BATCH_TOKENS, measure, save)


def batch_shape(progress: float) -> tuple[int, int]:
    """Rows and window of this worker's part of a batch after `progress` (0..1) of the tokens."""
    window = max(window for since, window in WINDOWS if since <= progress)
    return BATCH_TOKENS // window // num_workers(), window


def next_token_loss(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy in nats of each token given those before it; `batch` is int64 [rows, window + 1]."""
    logits = autocast_logits(model, batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


def autocast_logits(model: LlamaForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """Logits [rows, window, vocabulary] of `tokens` [rows, window], computed in bfloat16."""
    with torch.autocast(tokens.device.type, torch.bfloat16):
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits
