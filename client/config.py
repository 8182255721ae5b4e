"""What a client can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    PlainSerializer,
    field_validator,
    model_validator,
)

from swarm.config import Config, Threads, expanded
from swarm.membership import KeyFile
from swarm.metrics import Observed
from swarm.permits import PeerIds
from swarm.speculation.processors import MAX_ENDS, Processors
from swarm.speculation.semantic import Leniency
from swarm.wire import MAX_EVIDENCE, Rule, Wire

MAX_WINDOW = 64
"""Drafts of a round: peers take so many, unless they are told otherwise."""


def number_or(words: tuple[str, ...], low: int, high: int) -> BeforeValidator:
    """One of the words or a number within these limits. Raises ValueError."""

    def read(value: object) -> object:
        if value in words:
            return value
        if isinstance(value, int | str) and str(value).isdecimal() and low <= int(value) <= high:
            return int(value)
        raise ValueError(f"neither {', '.join(words)} nor a number from {low} to {high}")

    return BeforeValidator(read)


def _leniency(value: object) -> object:
    """From a table. Raises ValueError."""
    try:
        return msgspec.convert(value, Leniency)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _processors(value: dict[str, Any]) -> dict[str, Any]:
    """The same, checked. Raises ValueError."""
    if "repetition_penalty" in value:
        raise ValueError("repetition_penalty is an option of its own")
    try:
        msgspec.convert(value, Processors)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    return value


def _listed(value: object) -> object:
    """One token as a list of one; arrays, and numbers that are of numpy or torch, as what they stand for."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, list | tuple):
        return [one.item() if hasattr(one, "item") else one for one in plain]
    return [plain] if isinstance(plain, int) else plain


Ends = Annotated[tuple[Annotated[int, Field(ge=0, strict=True)], ...], Field(max_length=MAX_ENDS)]
Window = Annotated[Literal["auto", "awc"] | int, number_or(("auto", "awc"), 0, MAX_WINDOW)]
EvidenceSize = Annotated[Literal["auto"] | int, number_or(("auto",), 1, MAX_EVIDENCE)]
InFlight = Annotated[Literal["auto"] | int, number_or(("auto",), 1, 16)]
Lenient = Annotated[InstanceOf[Leniency], BeforeValidator(_leniency), PlainSerializer(msgspec.to_builtins)]


class ClientConfig(Observed):
    """How to reach the swarm and how to draft; the same for all generations of a SwarmModel."""

    model: str
    initial_peers: Annotated[tuple[str, ...], Field(min_length=1)]
    swarm_key: KeyFile = None
    """The private swarm's; without it, the client uses the public one."""
    revision: str | None = None
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{6,64}$")] | None = None
    """Which weights, where a model is served with several; its beginning suffices."""
    allow: PeerIds = ()
    """Peers that may be in a chain; all may if none is named."""
    deny: PeerIds = ()
    """Peers that may not."""
    identity: Path | None = None
    """A key file, for peers that serve only clients they know; without it the client is somebody else each time."""
    audit: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the rounds after which all of the text is judged again by other peers, beside the generation."""
    wire: Wire = "exact"
    """How hidden states travel between peers: `exact`, in the model's dtype, or `int8`, which takes a quarter of the
    bytes of float32 and is lossy: the text is near the target's, not the same, and depends on where the chain's peers
    divide the layers."""
    draft: str = "ngram"
    """A model, or `ngram` or `none`."""
    draft_device: str = "cpu"
    threads: Threads | None = None
    """Processor threads for the draft; if not given, as many as are free and pay when it is loaded."""
    draft_at: Literal["auto", "client", "peer"] = "auto"
    """Where the drafts are made: here, or at a peer that offers it; `auto`: where text comes faster."""
    window: Window = "auto"
    """Most tokens drafted for one round: as many as bring most tokens per second, by the model of cost (`auto`) or by
    AWC's network (`awc`), or a number; 0 is plain decoding."""
    tree: bool = True
    """Whether drafts are a tree, where the drafter has more than one guess; else a chain."""
    in_flight: InFlight = "auto"
    """Rounds that may be on their way at a time: drafts follow those before them before the verdict is back."""
    uplink_mbit: Annotated[float, Field(gt=0)] = 10.0
    """Upload speed, in 10^6 bits a second, by which `evidence_k` decides."""
    wait_floor: Annotated[float, Field(gt=0)] = 1.0
    """Seconds that are waited for a verdict, at least, before the peers are asked what became of it, ..."""
    wait_ceiling: Annotated[float, Field(gt=0)] = 30.0
    """... and at most. Peers that compute on are given more: half of `timeout`, and what their work may take by
    what they announce."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds without any progress after which a generation is given up."""

    @property
    def obstacle_to_a_peer(self) -> str | None:
        """Why no peer is to draft, if so: it would choose the chain, and audit nothing."""
        if self.audit:
            return "an audited text is drafted here"
        if self.wire != "exact":
            return "the form of states between peers is this client's own wish"
        if self.allow or self.deny:
            return "who may be in a chain and who not is known here alone"
        return None

    @field_validator("identity")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return value and expanded(value)

    @model_validator(mode="after")
    def _audit_what_is_exact(self) -> ClientConfig:
        if self.audit and self.wire != "exact":
            raise ValueError("chains of other peers lose other bits in int8: audit with --wire exact")
        return self


class GenerationConfig(Config):
    """What one generation is to be like."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    top_k: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    """Above 1, tokens of the text come less often; None: as the model's generation_config.json has it."""
    processors: Annotated[dict[str, Any], AfterValidator(_processors)] = Field(default_factory=dict)
    """What else shapes the logits, by transformers' names (see `swarm.speculation.processors`); it goes before what the
    model's generation_config.json says of the same."""
    eos_token_id: Annotated[Ends, BeforeValidator(_listed)] | None = None
    """The tokens that end the text; None: the model's own."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    special_tokens: bool = True
    """Whether "<|im_end|>", or what else the model has for control, is read as that in the prompt's text. Without it,
    all of the text is text; what the tokenizer adds by itself stays."""
    window: Window | None = None
    """Other than the client's own."""
    tree: bool | None = None
    """Other than the client's own."""
    in_flight: InFlight | None = None
    """Other than the client's own."""
    acceptance: Rule = "match"
    """Which drafts stand: such as are the target's own tokens, or, at temperatures above 0, by rejection sampling; or,
    lossy, by the rule `semantic`."""
    semantic: Lenient = Leniency()
    """How lenient the rule `semantic` is."""
    evidence_k: EvidenceSize = "auto"
    """Under `rejection`, of how many tokens the drafter gives its probabilities with each draft; `auto`: of as many as
    raise acceptance by more than their bytes cost."""
    resume: Path | None = None
    """A file that keeps the tokens as they come, and from which an interrupted generation goes on."""
    record: Path | None = None
    """A file to which is added, at the end, how the draft would have gone on at each position of the text: a simulator
    replays it."""
