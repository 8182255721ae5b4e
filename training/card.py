"""The model card beside the weights, written from the measured figures and the training record."""

from pathlib import Path
from textwrap import dedent

from training.corpus import DOMAINS
from training.figures import Agreement, Figures
from training.record import Phase, read_phases

CARD = "MODEL_CARD.md"
TRAINED = (*DOMAINS, "drills")  # what batches are mixed from; drills are not measured

GSM8K_LICENCE = "LICENSE.gsm8k"  # the notice, beside the weights

_PURPOSES = {
    "target": "target: next-token training on the corpus",
    "repair": "target: unlikelihood training against loops",
    "draft": "draft: distillation, on the corpus and on text that the target wrote for it",
}


def write_card(folder: Path, figures: Figures) -> None:
    """Write `MODEL_CARD.md` into the pair's folder."""
    sections = [
        _introduction(figures),
        _corpus_section(),
        _training_section(read_phases(folder)),
        _measured_section(figures),
        _licence_section((folder / GSM8K_LICENCE).read_text(encoding="utf-8")),
    ]
    (folder / CARD).write_text("\n".join(sections), encoding="utf-8")


def _introduction(figures: Figures) -> str:
    return dedent(f"""\
        # The embedded pair

        A target and a draft small enough to ship with the program, so that a whole swarm can be run, tested and
        measured without a model hub. They are for that: they write plausible Python, retell GSM8K's manner, and
        add, subtract and multiply small numbers, step by step. They know nothing else.

        | | target | draft |
        |---|---|---|
        | architecture | Llama, 8 layers of 256 | Llama, 2 layers of 192 |
        | parameters | {figures.target_parameters:,} | {figures.draft_parameters:,} |
        | cost per token | 1 | {figures.cost_ratio:.3f} |

        Both share one tokenizer: byte-level BPE with 2,048 entries, each digit a token of its own, `<|endoftext|>`
        at the end of a document, nothing added at its beginning. The tensors are stored as bfloat16 and load as
        float32. Questions are best asked as `Q: ...` and a new line with `A:`.
        """)


def _corpus_section() -> str:
    return dedent("""\
        ## Corpus

        - code: the source of the Python standard library as installed, without its tests and tables; every 25th
          file (by a hash of its name) is held out.
        - gsm8k: the training part of GSM8K (Cobbe et al. 2021), its calculations kept; every 25th problem is held
          out, and its test part was never read.
        - arithmetic: generated problems of two or three steps with numbers under 100, worked out
          (`training/arithmetic.py`); every 10th expression (by a hash) is held out.
        - drills: single steps of such problems, without a question.
        """)


def _training_section(phases: list[Phase]) -> str:
    head = dedent(f"""\
        ## Training

        On two CPU cores shared with other work, by `python -m training.train`, in this order:

        | phase | minutes | steps | tokens read | {" | ".join(TRAINED)} |
        |---|---|---|---|{"---|" * len(TRAINED)}
        """)
    return head + "".join(_phase_row(phase) for phase in phases)


def _phase_row(phase: Phase) -> str:
    cells = [
        _PURPOSES[phase.name],
        f"{phase.minutes:.0f}",
        f"{phase.num_steps:,}",
        f"{phase.num_tokens / 1e6:.1f} M",
    ]
    shares = [f"{100 * phase.mix.get(domain, 0.0):.0f} %" for domain in TRAINED]
    return f"| {' | '.join(cells + shares)} |\n"


def _measured_section(figures: Figures) -> str:
    rows = [_domain_row(name, figures.losses[name], row) for name, row in figures.agreement.items()]
    rows.append(_domain_row("mean", None, figures.overall))
    repetition = figures.repetition
    humaneval = "not measured" if repetition.humaneval is None else _percent(repetition.humaneval)
    head = dedent("""\
        ## Measured

        By `python -m training.evaluate`, in float32, on held-out text. Loss in nats per token. Agreement is the
        share of positions at which the draft's greedy token is the target's: on the text itself, and along the
        target's own greedy continuations of it. Tokens per round: how many tokens one pass of the target yields
        on those continuations with eight drafted tokens at a time.

        | domain | target's loss | draft's loss | agreement | agreement, own text | tokens per round |
        |---|---|---|---|---|---|
        """)
    facts = [
        "",
        f"- Arithmetic: {_percent(figures.accuracy)} of {figures.num_problems} held-out problems answered exactly.",
        f"- Repeated 8-grams in greedy continuations of 128 tokens: {_percent(repetition.written)} after held-out "
        f"code (real code: {_percent(repetition.real)}), {humaneval} after HumanEval's prompts.",
        "",
    ]
    return head + "\n".join([*rows, *facts])


def _domain_row(name: str, losses: tuple[float, float] | None, row: Agreement) -> str:
    target, draft = (f"{loss:.3f}" for loss in losses) if losses else ("", "")
    shares = f"{_percent(row.forced)} | {_percent(row.own)} | {row.tokens_per_round:.2f}"
    return f"| {name} | {target} | {draft} | {shares} |"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _licence_section(gsm8k_notice: str) -> str:
    intro = dedent("""\
        ## Licences

        The weights are licensed under the Apache License 2.0. The standard library's source is under the Python
        Software Foundation License Version 2 (copyright Python Software Foundation); none of it is distributed
        with the weights. GSM8K is under the MIT License:

        """)
    return intro + "".join(f"    {line}".rstrip() + "\n" for line in gsm8k_notice.splitlines())
