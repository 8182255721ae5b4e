"""Train the draft to say what the target would say next.

Half of the text is the corpus, half is what the target itself writes greedily, since that is the text on which its
tokens will be judged. The loss pulls the draft towards the target's distribution, sharpened a little towards the
target's first choice, which is the one that counts when decoding greedily.
"""

import logging
import math

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from training.corpus import Corpus, Part, window
from training.generate import continue_greedily
from training.loop import Measured, Save, train_for
from training.optimiser import PairOptimiser
from training.parallel import num_workers, rank
from training.pretrain import BATCH_TOKENS, autocast_logits, batch_shape
from training.record import Plan

log = logging.getLogger(__name__)

OWN_SHARE = 0.45  # of a batch's rows: text written by the target
OWN_TOKENS = 0.05  # tokens written for each token read
NUM_ROWS = 64  # texts written at a time
NUM_PROMPT = 64  # tokens of the corpus before each
NUM_NEW = 320  # tokens written
FIRST_CHOICE = 0.3  # weight of the target's first choice in what the draft is pulled to


def distil(draft: LlamaForCausalLM, target: LlamaForCausalLM, corpus: Corpus, plan: Plan, save: Save) -> None:
    """Train `draft` in place."""
    rng = plan.rng(rank())
    target.requires_grad_(False)
    own = write_own_text(target, corpus, plan, rng)
    compiled = torch.compile(distillation_losses, dynamic=False)

    def measure(progress: float) -> Measured:
        loss, agreement = compiled(draft, target, _mixed(corpus, plan, own, rng, *batch_shape(progress)))
        return {"loss": loss, "agreement": agreement}

    train_for(plan, PairOptimiser(draft), BATCH_TOKENS, measure, save)


def write_own_text(target: LlamaForCausalLM, corpus: Corpus, plan: Plan, rng: np.random.Generator) -> Part:
    """Greedy continuations of corpus prompts, as a part to draw windows from."""
    rows = list[torch.Tensor]()
    num_batches = math.ceil(plan.num_tokens * OWN_TOKENS / num_workers() / (NUM_ROWS * (NUM_PROMPT + NUM_NEW)))
    with torch.autocast("cpu", torch.bfloat16):
        for number in range(num_batches):
            rows.append(continue_greedily(target, corpus.batch(rng, plan.mix, NUM_ROWS, NUM_PROMPT), NUM_NEW))
            log.info("own text: %d of %d batches", number + 1, num_batches)
    tokens = torch.cat(rows).flatten().numpy().astype(np.uint16)
    return Part(tokens, np.arange(0, len(tokens), NUM_PROMPT + NUM_NEW))


def distillation_losses(
    draft: LlamaForCausalLM, target: LlamaForCausalLM, batch: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy to the sharpened target in nats and the share of equal first choices, on `batch` [rows, window]."""
    with torch.no_grad():
        wanted = autocast_logits(target, batch).float()
        first = wanted.argmax(dim=-1, keepdim=True)
        goal = wanted.softmax(dim=-1).mul_(1.0 - FIRST_CHOICE)
        goal.scatter_add_(-1, first, torch.full(first.shape, FIRST_CHOICE))
    given = autocast_logits(draft, batch).float()
    loss = -(goal * F.log_softmax(given, dim=-1)).sum(dim=-1).mean()
    return loss, (given.argmax(dim=-1, keepdim=True) == first).float().mean()


def _mixed(
    corpus: Corpus, plan: Plan, own: Part, rng: np.random.Generator, num_rows: int, num_tokens: int
) -> torch.Tensor:
    num_own = round(num_rows * OWN_SHARE)
    rows = [window(own, rng, num_tokens) for _ in range(num_own)]
    return torch.cat([corpus.batch(rng, plan.mix, num_rows - num_own, num_tokens), *(row[None] for row in rows)])
