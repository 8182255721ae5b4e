"""Messages of real size: what a hop takes over links of 50 ms, for each form in which hidden states travel.

A random Llama of hidden size 8,192 with tiny heads and feed-forward: 16 KiB for each token in bfloat16, and next to no
compute. After each token it says the next one of the vocabulary, and so does its draft: all drafts stand, rounds are
always of one size, and no row is like another. A QUIC connection sends a message over part of a round trip until larger
ones have passed (its window is about twice the largest so far): each setting is measured on fresh links, and again
after a long prompt. And on the embedded pair, how often int8 leaves a text as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.bar import Bar
from benchmarks.deployment import Client, deployed, start_client
from benchmarks.lab import Lab
from benchmarks.petals import save_tokenizer
from specswarm.processes import running_swarm

DELAY_MS = 50.0
RATES = (None, 50.0)  # Mbit/s that each host uploads
SPANS = ("0:1", "1:2", "2:3", "3:4")
SHAPES: dict[str, dict[str, Any]] = {
    "chain of 8": {"window": 8, "tree": False, "in_flight": 1},
    "tree of 32": {"window": 32, "in_flight": 1},
}
FORMS: dict[str, tuple[str, str]] = {
    "exact, raw": ("1e9", "exact"),
    "exact, packed": ("1", "exact"),
    "int8": ("1e9", "int8"),
}
"""By name, what peers are told of their uplink, by which they pack or do not, and the client's `wire`."""
ROUNDS = 8
PROMPT = list(range(100, 108))
LONG_PROMPT = [100 + 7 * i % 1900 for i in range(1024)]  # 16 MiB

PACKED = Bar("tree of 32, 50 Mbit/s: trip with packed states, of the raw ones'", 0.9, "x")
INT8 = Bar("tree of 32, 50 Mbit/s: trip with int8, of the raw ones'", 0.8, "x")
PACKED_FAST = Bar("tree of 32, no bound on the uplink: trip with packed states, of the raw ones'", 1.1, "x")
BARS = (PACKED, INT8, PACKED_FAST)


@dataclass(frozen=True)
class Row:
    """One form and shape over one kind of link."""

    form: str
    rate_mbit: float | None
    shape: str
    is_fresh: bool
    """Whether nothing large had passed the links before."""
    drafted: float
    """A round."""
    trip_ms: float
    """Median, after the first."""
    compute_ms: float
    bytes_per_round: float
    """On the links between peers, headers included."""

    @property
    def hop(self) -> float:
        """What a link of the trip takes, times its delay: the trip has one more than there are peers."""
        return self.trip_ms / (len(SPANS) + 1) / DELAY_MS


@dataclass(frozen=True)
class Loss:
    """Texts in int8 beside those in the model's dtype."""

    temperature: float
    texts: int
    tokens: int
    """Most, of each."""
    same: float
    """Share of the texts."""
    first_differences: list[int]
    """Of the others, the first token that differs."""

    @property
    def kept(self) -> float:
        """Share of the tokens before the first that differs."""
        whole = self.texts - len(self.first_differences)
        return (whole * self.tokens + sum(self.first_differences)) / (self.texts * self.tokens)


def run(texts: Sequence[str], tokens: int, folder: Path, console: Console) -> tuple[list[Row], list[Loss]]:
    """What a hop takes, and what int8 does to texts of so many tokens; prints both."""
    folder.mkdir()
    rows = hops(folder / "hops", console)
    console.print(table(rows))
    lost = losses(texts, tokens, folder / "losses")
    console.print(*map(loss_line, lost), sep="\n", highlight=False)
    return rows, lost


def as_dict(rows: Sequence[Row], lost: Sequence[Loss]) -> dict[str, Any]:
    """For JSON."""
    return {
        "hops": [asdict(row) | {"hop": row.hop} for row in rows],
        "losses": [asdict(one) | {"kept": one.kept} for one in lost],
    }


def hops(folder: Path, console: Console) -> list[Row]:
    """Measure every form, link and shape."""
    folder.mkdir()
    model, draft = wide_llama(folder / "model", 8192, len(SPANS)), wide_llama(folder / "draft", 64, 1)
    rows: list[Row] = []
    for number, (form, (uplink, wire)) in enumerate(FORMS.items()):
        place = folder / str(number)
        place.mkdir()
        with _swarm(str(model), str(draft), place, uplink, wire) as (lab, client):
            for one in _measured(lab, client, form):
                console.print(one_line(one), highlight=False)
                rows.append(one)
    return rows


def losses(texts: Sequence[str], tokens: int, folder: Path) -> list[Loss]:
    """How far the embedded target's texts stay the same in int8."""
    folder.mkdir()
    spans = ("0:2", "2:4", "4:6", "6:8")
    made: dict[str, dict[float, list[list[int]]]] = {}
    with running_swarm("embedded", spans, folder, options=["--threads", "1"]) as (initial_peers, _):
        for wire in ("exact", "int8"):
            with contextlib.closing(start_client()) as client:
                client.connect(
                    model="embedded", initial_peers=initial_peers, draft="embedded-draft", threads=1, wire=wire
                )
                made[wire] = {
                    temperature: [_tokens(client, text, temperature, tokens) for text in texts]
                    for temperature in (0.0, 0.8)
                }
    return [
        loss(temperature, tokens, made["exact"][temperature], made["int8"][temperature])
        for temperature in (0.0, 0.8)
    ]


def loss(temperature: float, tokens: int, exact: Sequence[list[int]], lossy: Sequence[list[int]]) -> Loss:
    """Compare texts, in order."""
    pairs = list(zip(exact, lossy, strict=True))
    first = [_first_difference(one, other) for one, other in pairs if one != other]
    return Loss(temperature, len(pairs), tokens, mean(one == other for one, other in pairs), first)


def figures(rows: Sequence[Row]) -> dict[Bar, float]:
    """What the rows say of the bars."""
    trips = {
        (row.form, row.rate_mbit): row.trip_ms for row in rows if row.shape == "tree of 32" and not row.is_fresh
    }
    return {
        PACKED: trips["exact, packed", 50.0] / trips["exact, raw", 50.0],
        INT8: trips["int8", 50.0] / trips["exact, raw", 50.0],
        PACKED_FAST: trips["exact, packed", None] / trips["exact, raw", None],
    }


def table(rows: Sequence[Row]) -> Table:
    """A form, link and shape a line."""
    made = Table(title=f"hidden size 8,192, {len(SPANS)} peers, {DELAY_MS:g} ms one way")
    for heading in ("states", "uplink", "drafts", "links", "trip ms", "compute ms", "hop / delay", "KiB a round"):
        made.add_column(heading, justify="right")
    for row in rows:
        made.add_row(
            row.form,
            _rate(row),
            row.shape,
            "fresh" if row.is_fresh else "after a long prompt",
            f"{row.trip_ms:.0f}",
            f"{row.compute_ms:.0f}",
            f"{row.hop:.2f}",
            f"{row.bytes_per_round / 1024:.0f}",
        )
    return made


def one_line(row: Row) -> str:
    """Progress, while the next one runs."""
    links = "fresh links" if row.is_fresh else "after a long prompt"
    return f"{row.form}, {_rate(row)}, {row.shape}, {links}: trip {row.trip_ms:.0f} ms, {row.hop:.2f} x the delay a hop"


def loss_line(one: Loss) -> str:
    """What became of the texts."""
    where = ", ".join(map(str, sorted(one.first_differences)))
    return (
        f"int8, embedded pair, T {one.temperature:g}: {one.same:.0%} of {one.texts} texts of {one.tokens} tokens are "
        f"the same, {one.kept:.1%} of the tokens stand before the first that differs (at {where or 'no place'})"
    )


def _rate(row: Row) -> str:
    return "unlimited" if row.rate_mbit is None else f"{row.rate_mbit:g} Mbit/s"


def _measured(lab: Lab, client: Client, form: str) -> Iterator[Row]:
    for is_fresh, rate in ((True, None), *((False, rate) for rate in RATES)):
        lab.set_rate(rate)
        if not is_fresh:
            client.generate(LONG_PROMPT, max_new_tokens=1, window=0)
        for shape, setting in SHAPES.items():
            lab.reset_traffic()
            result = client.generate(PROMPT, max_new_tokens=ROUNDS * (1 + setting["window"]), **setting)
            carried = lab.traffic()
            between = sum(carried[pair].bytes for pair in carried if set(pair) <= set(range(1, len(SPANS) + 1)))
            yield Row(
                form=form,
                rate_mbit=rate,
                shape=shape,
                is_fresh=is_fresh,
                drafted=result["drafted"] / result["rounds"],
                trip_ms=1e3 * median(result["trip_seconds"][1:]),
                compute_ms=1e3 * median(result["compute_seconds"][1:]),
                bytes_per_round=between / result["rounds"],
            )


@contextlib.contextmanager
def _swarm(model: str, draft: str, folder: Path, uplink: str, wire: str) -> Iterator[tuple[Lab, Client]]:
    """Peers that pack or do not, and a client that asks for a form."""
    options = ["--dtype", "bfloat16", "--uplink-mbit", uplink]
    with (
        Lab(hosts=len(SPANS) + 2, delay_ms=DELAY_MS) as lab,
        deployed(lab, model, SPANS, folder, options=options) as (initial_peers, client),
    ):
        client.connect(model=model, initial_peers=initial_peers, draft=draft, threads=1, wire=wire)
        yield lab, client


def wide_llama(folder: Path, hidden_size: int, layers: int) -> Path:
    """A random one that counts: its layers add little to the embeddings, and the head is these, moved by one token."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=hidden_size,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        max_position_embeddings=2048,
        initializer_range=0.3,
        tie_word_embeddings=False,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight.roll(1, 0))
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(1e-3)
            layer.mlp.down_proj.weight.mul_(1e-3)
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def _tokens(client: Client, text: str, temperature: float, count: int) -> list[int]:
    return list(client.generate(text, temperature=temperature, max_new_tokens=count, seed=7)["token_ids"])


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))
