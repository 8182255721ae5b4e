"""Train the embedded pair: `python -m training.train --out swarm/embedded`.

Three phases, each of which can be run alone with `--only`, going on from what the others left in `--out`:
`target` learns the corpus, `repair` unlearns loops, `draft` learns to say what the target would say.
First weights, the order of the data and the number of steps follow from the seed and the numbers of tokens.
"""

import argparse
import logging
from functools import partial
from pathlib import Path

from transformers import LlamaForCausalLM

from training.corpus import Corpus, load_corpus
from training.distil import distil
from training.loop import Save
from training.models import draft_config, load_model, new_model, save_model, target_config
from training.parallel import rank, run_workers, wait_for_all
from training.pretrain import pretrain
from training.record import Phase, Plan, add_phase
from training.repair import repair

PHASES = ("target", "repair", "draft")
MIXES = {
    "target": {"code": 0.5, "gsm8k": 0.1, "arithmetic": 0.25, "drills": 0.15},
    "repair": {"code": 0.5, "gsm8k": 0.15, "arithmetic": 0.35},
    "draft": {"code": 0.64, "gsm8k": 0.16, "arithmetic": 0.2},
}


def main() -> None:
    """Run the phases asked for, one after the other."""
    options = _options()
    load_corpus(options.build / "corpus", options.seed)  # builds it, where it is not there yet
    run_workers(options.workers, partial(_run_phases, options))


def _run_phases(options: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    corpus = load_corpus(options.build / "corpus", options.seed)
    for name, run in zip(PHASES, (_target, _repair, _draft), strict=True):
        if name in options.only:
            run(options, corpus)


def _target(options: argparse.Namespace, corpus: Corpus) -> None:
    target = new_model(target_config(corpus.tokenizer), options.seed)
    pretrain(target, corpus, _plan(options, "target"), _saver(options, "target", target, corpus))


def _repair(options: argparse.Namespace, corpus: Corpus) -> None:
    target = load_model(options.out / "target")
    repair(target, corpus, _plan(options, "repair"), _saver(options, "target", target, corpus))


def _draft(options: argparse.Namespace, corpus: Corpus) -> None:
    target, draft = load_model(options.out / "target"), new_model(draft_config(corpus.tokenizer), options.seed)
    distil(draft, target, corpus, _plan(options, "draft"), _saver(options, "draft", draft, corpus))


def _plan(options: argparse.Namespace, name: str) -> Plan:
    return Plan(name, options.seed, int(getattr(options, f"tokens_{name}")), MIXES[name])


def _saver(options: argparse.Namespace, folder: str, model: LlamaForCausalLM, corpus: Corpus) -> Save:
    def save(phase: Phase) -> None:
        if rank() == 0:
            save_model(options.out / folder, model, corpus.tokenizer)
            add_phase(options.out, phase)
        wait_for_all()

    return save


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("swarm/embedded"), help="where the pair is written")
    parser.add_argument("--build", type=Path, default=Path("build"), help="cache of the corpus")
    parser.add_argument("--only", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--tokens-target", type=float, default=24e6)
    parser.add_argument("--tokens-repair", type=float, default=3e6)
    parser.add_argument("--tokens-draft", type=float, default=12e6)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
