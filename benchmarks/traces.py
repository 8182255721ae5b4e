"""Record texts of the embedded pair for the simulator: `python -m benchmarks.traces --prompts ... --questions ...`.

A file for each kind of prompt and temperature, as `generate --record` would add to it; no prompt is kept in them.
"""

from __future__ import annotations

import argparse
from collections.abc import Container, Sequence
from pathlib import Path

import torch

from benchmarks import prompts
from swarm.drafting.recording import record
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Slice, Stage
from swarm.span import Span
from swarm.speculation import trace
from swarm.speculation.sampling import Sampling, choose
from swarm.speculation.trace import Trace

TEMPERATURES = (0.0, 0.8)


def main() -> None:
    """Write them all."""
    options = _options()
    torch.set_num_threads(1)
    sources = ModelSource.resolve("embedded"), ModelSource.resolve("embedded-draft")
    target, draft = (load_stage(source, Span(0, source.info.num_layers)) for source in sources)
    tokenizer, ends, vocab_size = sources[0].tokenizer(), sources[0].eos_token_ids, sources[0].info.vocab_size
    kinds = {
        "code": prompts.code(options.num_prompts, options.prompts),
        "questions": prompts.questions(options.num_prompts, options.questions),
        "arithmetic": prompts.arithmetic(options.num_prompts),
    }
    options.out.mkdir(exist_ok=True)
    for kind, texts in kinds.items():
        for temperature in TEMPERATURES:
            found = []
            for seed, prompt in enumerate(texts):
                tokens, sampling = tokenizer(prompt)["input_ids"], Sampling(temperature, seed=seed)
                text = _text(target, tokens, sampling, options.tokens, ends)
                rows = record(draft, text, len(tokens), vocab_size, sampling)
                found.append(Trace("embedded", "embedded-draft", temperature, len(tokens), rows))
            file = options.out / f"{kind}-T{temperature:g}.jsonl.gz"
            trace.write(file, found)
            right = sum(one.acceptance * len(one.rows) for one in found) / sum(len(one.rows) for one in found)
            print(f"{file}: {len(found)} texts, the draft's first choice is right {right:.1%}", flush=True)


def _text(target: Stage, prompt: Sequence[int], sampling: Sampling, tokens: int, ends: Container[int]) -> list[int]:
    """A prompt, and what the target says after it: at most so many tokens."""
    text, cache, start = list(prompt), target.new_cache(), 0
    for _ in range(min(tokens, target.info.max_positions - len(prompt))):
        (logits,) = target.forward([Slice(cache, start, torch.tensor(text[start:]), num_logits=1)])
        start = len(text)
        text += choose(logits, text, [], sampling)
        if text[-1] in ends:
            break
    return text


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, help="code prompts: JSON lines with `prompt`, such as HumanEval")
    parser.add_argument("--questions", type=Path, help="JSON lines with `question`, such as GSM8K")
    parser.add_argument("--num-prompts", type=int, default=16, help="of each kind")
    parser.add_argument("--tokens", type=int, default=160, help="most new tokens of a text")
    parser.add_argument("--out", type=Path, default=Path("simulator/traces"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
