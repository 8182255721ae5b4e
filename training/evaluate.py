"""Measure the saved pair and write its model card: `python -m training.evaluate`.

Everything is measured in float32 with plain transformers, on held-out text only.
"""

import argparse
import gzip
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from training.arithmetic import Problem, answer_of, problems
from training.card import write_card
from training.corpus import DOMAINS, Corpus, Part, load_corpus
from training.figures import Agreement, Figures, Repetition
from training.generate import continue_greedily, repeated_share
from training.models import load_model, num_parameters

NUM_WINDOWS = 48  # held-out windows per domain
WINDOW = 512  # tokens
NUM_PROMPTS = 64  # greedy continuations per domain
NUM_PROMPT = 64  # tokens
NUM_NEW = 128  # tokens
LOOK_AHEAD = 8  # tokens drafted at a time, for the estimate of tokens per round
ARITHMETIC_SEED = 1_000_003  # other problems than the training run's held-out part
HUMANEVAL = Path("../shared/data/HumanEval.jsonl.gz")  # relative to the repository; optional, for measuring only


@dataclass(frozen=True, slots=True)
class Pair:
    """Target, draft and their common tokenizer, as loaded from a folder."""

    target: LlamaForCausalLM
    draft: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast


def main() -> None:
    """Measure, print the figures, write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", type=Path, default=Path("swarm/embedded"))
    parser.add_argument("--build", type=Path, default=Path("build"), help="cache of the corpus")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-problems", type=int, default=300)
    options = parser.parse_args()
    began = time.monotonic()
    figures = measure(
        load_pair(options.pair), load_corpus(options.build / "corpus", options.seed), options.num_problems
    )
    write_card(options.pair, figures)
    print(json.dumps(figures.as_dict(), indent=2))
    print(f"measured in {time.monotonic() - began:.0f} s")


def load_pair(folder: Path) -> Pair:
    """The pair saved under `folder`, refused where the two tokenizers differ."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "target")
    if AutoTokenizer.from_pretrained(folder / "draft").get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"target and draft in {folder} have different tokenizers")
    return Pair(load_model(folder / "target"), load_model(folder / "draft"), tokenizer)


@torch.no_grad()
def measure(pair: Pair, corpus: Corpus, num_problems: int) -> Figures:
    """All the figures of the model card."""
    heldout = {domain: corpus.parts[domain, "heldout"] for domain in DOMAINS if (domain, "heldout") in corpus.parts}
    losses, agreement = {}, {}
    for domain, part in heldout.items():
        rows = even_windows(part, NUM_WINDOWS, WINDOW + 1)
        losses[domain] = _losses(pair, rows)
        forced = _matches(pair, rows[:, :-1]).float().mean()
        agreement[domain] = _agreement(
            float(forced), _own_matches(pair, even_windows(part, NUM_PROMPTS, NUM_PROMPT))
        )
    return Figures(
        target_parameters=num_parameters(pair.target),
        draft_parameters=num_parameters(pair.draft),
        losses=losses,
        agreement=agreement,
        accuracy=accuracy(pair, problems(ARITHMETIC_SEED, num_problems, "heldout")),
        num_problems=num_problems,
        repetition=_repetition(pair, heldout["code"]),
    )


def even_windows(part: Part, num_rows: int, num_tokens: int) -> torch.Tensor:
    """Windows spread evenly over a part, int64 [rows, num_tokens], each from a place where training windows start."""
    starts = part.starts[part.starts + num_tokens <= len(part.tokens)]
    chosen = starts[torch.linspace(0, len(starts) - 1, min(num_rows, len(starts))).long().numpy()]
    return torch.stack([torch.from_numpy(part.tokens[s : s + num_tokens].astype("int64")) for s in chosen])


def accuracy(pair: Pair, asked: list[Problem]) -> float:
    """Share of the problems that the target answers exactly, greedily, each prompt by itself."""
    num_right = 0
    for first in range(0, len(asked), 50):
        group = asked[first : first + 50]
        num_right += sum(answer_of(t) == p.answer for t, p in zip(_answers(pair, group), group, strict=True))
    return num_right / len(asked)


def _answers(pair: Pair, group: list[Problem]) -> list[str]:
    prompts = pair.tokenizer([p.prompt for p in group], return_tensors="pt", padding=True, padding_side="left")
    written = pair.target.generate(
        **prompts, max_new_tokens=192, do_sample=False, pad_token_id=pair.tokenizer.pad_token_id
    )
    new = written[:, prompts["input_ids"].shape[1] :]
    return [pair.tokenizer.decode(row, skip_special_tokens=True) for row in new]


def _losses(pair: Pair, rows: torch.Tensor) -> tuple[float, float]:
    """Target's and draft's mean loss in nats per token over `rows` [rows, window + 1]."""
    losses = [_loss(model, rows) for model in (pair.target, pair.draft)]
    return losses[0], losses[1]


def _loss(model: LlamaForCausalLM, rows: torch.Tensor) -> float:
    parts = [
        F.cross_entropy(model(b[:, :-1]).logits.flatten(0, 1), b[:, 1:].flatten()) for b in torch.split(rows, 8)
    ]
    return float(torch.stack(parts).mean())


def _matches(pair: Pair, rows: torch.Tensor) -> torch.Tensor:
    """Whether both models' greedy next tokens are equal after each token of `rows`: bool [rows, window]."""
    chosen = [torch.cat([m(b).logits.argmax(-1) for b in torch.split(rows, 8)]) for m in (pair.target, pair.draft)]
    return chosen[0] == chosen[1]


def _own_matches(pair: Pair, prompts: torch.Tensor) -> list[list[bool]]:
    """Whether the draft would have said what the target said, along the target's greedy continuations."""
    rows = continue_greedily(pair.target, prompts, NUM_NEW)
    said = torch.cat([pair.draft(b).logits.argmax(-1) for b in torch.split(rows[:, :-1], 8)])[:, NUM_PROMPT - 1 :]
    lengths = [len(_until_end(row, pair.tokenizer)) for row in rows[:, NUM_PROMPT:].tolist()]
    matches = (said == rows[:, NUM_PROMPT:]).tolist()
    return [row[:length] for row, length in zip(matches, lengths, strict=True)]


def _until_end(tokens: list[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens up to and with the first end-of-text token."""
    end = tokenizer.eos_token_id
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def _agreement(forced: float, own: list[list[bool]]) -> Agreement:
    equal = sum(map(sum, own)) / sum(map(len, own))
    return Agreement(forced, equal, sum(map(len, own)) / sum(num_rounds(row) for row in own))


def num_rounds(matches: list[bool], look_ahead: int = LOOK_AHEAD) -> int:
    """Target passes needed for a text of which the draft guesses the tokens marked True, `look_ahead` at a time.

    Each round yields the guesses up to the first wrong one, and one token of the target's own.
    """
    position, rounds = 0, 0
    while position < len(matches):
        ahead = matches[position : position + look_ahead]
        position += (ahead.index(False) if False in ahead else len(ahead)) + 1
        rounds += 1
    return rounds


def _repetition(pair: Pair, code: Part) -> Repetition:
    windows = even_windows(code, NUM_PROMPTS, NUM_PROMPT + NUM_NEW)
    written = continue_greedily(pair.target, windows[:, :NUM_PROMPT], NUM_NEW)[:, NUM_PROMPT:].tolist()
    real = windows[:, NUM_PROMPT:].tolist()
    return Repetition(_mean_repeated(pair, written), _mean_repeated(pair, real), _humaneval_repeated(pair))


def _humaneval_repeated(pair: Pair) -> float | None:
    """The same share after HumanEval's prompts, or None where the file is absent."""
    if not HUMANEVAL.exists():
        return None
    with gzip.open(HUMANEVAL, "rt", encoding="utf-8") as lines:
        prompts = [pair.tokenizer(json.loads(line)["prompt"])["input_ids"] for line in lines]
    rows = [continue_greedily(pair.target, torch.tensor([p]), NUM_NEW)[0, len(p) :].tolist() for p in prompts[::4]]
    return _mean_repeated(pair, rows)


def _mean_repeated(pair: Pair, rows: list[list[int]]) -> float:
    shares = [repeated_share(_until_end(row, pair.tokenizer)) for row in rows]
    return sum(shares) / len(shares)


if __name__ == "__main__":
    main()
