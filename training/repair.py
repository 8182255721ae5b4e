"""Teach the target not to loop: sequence-level unlikelihood training (Welleck et al. 2019, arXiv 1908.04319).

The target continues training prompts greedily. Where such a continuation repeats more than real code does, the tokens
that complete a repeated n-gram are made less likely; an ordinary batch of the corpus in every step keeps the rest.
"""

import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from training.corpus import Corpus
from training.generate import continue_greedily, repeated_share, repeats
from training.loop import Measured, Save, train_for
from training.optimiser import PairOptimiser
from training.parallel import num_workers, rank
from training.pretrain import BATCH_TOKENS, autocast_logits, batch_shape, next_token_loss
from training.record import Plan

NUM_ROLLOUTS = 32  # rows per step, over all workers
NUM_PROMPT = 48  # tokens
NUM_NEW = 128  # tokens
PROMPTS = {"code": 0.8, "gsm8k": 0.2}  # shares of the prompts
RATE = 0.15  # of the peak learning rates
WEIGHT = 1.0  # of the unlikelihood term
TOLERATED = 0.05  # share of repeated n-grams that is left alone in a row: about that of real code
ORDER = 6  # a little below the order at which repetition is measured


def repair(model: LlamaForCausalLM, corpus: Corpus, plan: Plan, save: Save) -> None:
    """Train `model` in place."""
    rng = plan.rng(rank())
    compiled = torch.compile(_repair_losses, dynamic=False)

    def measure(progress: float) -> Measured:
        rollouts = continue_greedily(
            model, corpus.batch(rng, PROMPTS, NUM_ROLLOUTS // num_workers(), NUM_PROMPT), NUM_NEW
        )
        rows, window = batch_shape(0.0)
        likelihood, penalty = compiled(
            model, corpus.batch(rng, plan.mix, rows, window + 1), rollouts, unwanted(rollouts)
        )
        shares = [repeated_share(row) for row in rollouts[:, NUM_PROMPT:].tolist()]
        repeated = torch.tensor(shares).mean()
        return {"loss": likelihood + WEIGHT * penalty, "likelihood": likelihood, "repeated": repeated}

    num_tokens = BATCH_TOKENS + NUM_ROLLOUTS * NUM_NEW
    train_for(plan, PairOptimiser(model, RATE), num_tokens, measure, save)


def unwanted(rollouts: torch.Tensor) -> torch.Tensor:
    """Mask, float32 of the same shape: 1 for generated tokens that complete a repeated n-gram, in rows that loop."""
    mask = torch.zeros(rollouts.shape)
    for row, tokens in enumerate(rollouts.tolist()):
        if repeated_share(tokens[NUM_PROMPT:]) > TOLERATED:
            mask[row, NUM_PROMPT:] = torch.tensor(repeats(tokens, ORDER)[NUM_PROMPT:], dtype=torch.float32)
    return mask


def _repair_losses(
    model: LlamaForCausalLM, batch: torch.Tensor, rollouts: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The likelihood loss of `batch`, and -log(1 - p) averaged over the masked tokens of `rollouts`."""
    logits = autocast_logits(model, rollouts[:, :-1]).float()
    chosen = F.log_softmax(logits, dim=-1).gather(-1, rollouts[:, 1:, None]).squeeze(-1)
    penalty = -torch.log((1.0 - chosen.exp()).clamp(min=1e-4)) * mask[:, 1:]
    return next_token_loss(model, batch), penalty.sum() / mask.sum().clamp(min=NUM_NEW)
