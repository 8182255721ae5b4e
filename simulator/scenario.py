"""What a simulated swarm is like: tables of a TOML file, each with its keys, their units and their limits."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from client.config import MAX_WINDOW, InFlight, number_or
from simulator.complaint import complaint
from swarm.errors import UsageError
from swarm.user_files import read_bytes

Milliseconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=64)]


AnyWindow = Annotated[
    Literal["auto", "awc", "threshold"] | int, number_or(("auto", "awc", "threshold"), 0, MAX_WINDOW)
]


class Table(BaseModel):
    """A table of the file: no other keys, nothing changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(Table):
    """What a peer's compute takes, for a batch and then for each of its layers."""

    hop_ms: Milliseconds = 0.0
    """For a batch, whatever the layers."""
    start_ms: Milliseconds = 0.5
    """For a batch, ..."""
    several_ms: Milliseconds = 0.0
    """... if it has more tokens than one, ..."""
    token_ms: Milliseconds = 0.1
    """... for each of its tokens, ..."""
    round_ms: Milliseconds = 0.0
    """... for each of its rounds after the first, ..."""
    context_us: Milliseconds = 0.0
    """... and for each token, for each position before it."""


class Draft(Table):
    """What drafting takes."""

    start_ms: Milliseconds = 1.0
    """For a forward pass, ..."""
    node_ms: Milliseconds = 0.2
    """... and for each guess that it works out."""


class Model(Table):
    """The target."""

    layers: Positive = 8
    row_bytes: Positive = 1024
    """Of one token's hidden state."""


class Peers(Table):
    """Peers of one kind."""

    count: Positive = 1
    layers: Positive | Annotated[list[Count], Field(min_length=2, max_length=2)] | Literal["even", "by-speed"]
    """How many, and the swarm decides which; or which: [first, one past the last]; or those that fall to each if all
    peers that say so are one chain, each with as many as the others, or with as many as it is fast."""
    place: Name = "everywhere"
    machine: Name | None = None
    """One of [machines], which they share; without it each has a machine of its own, with cores enough."""
    speed: Annotated[float, Field(gt=0)] = 1.0
    """Times as fast as [stage]."""
    uplink_mbit: Annotated[float, Field(gt=0)] | None = None
    max_batch_tokens: Positive = 512
    drafts: bool = False
    """Whether it offers drafting, too."""
    draft_speed: Annotated[float, Field(gt=0)] = 1.0
    """Times as fast as [draft]."""


class Arrivals(Table):
    """When a client asks."""

    kind: Literal["closed", "poisson", "trace"] = "closed"
    """One request after the other, by chance, or as it is written in a file."""
    think_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Of `closed`: between two."""
    per_hour: Annotated[float, Field(gt=0)] = 2.0
    """Of `poisson`: requests of each client."""
    file: Path | None = None
    """Of `trace`: a line for each request, dealt out among the clients in turn: seconds from the beginning, then, if
    they are others, tokens of the prompt and new tokens. From where the command runs."""
    after_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Before which nobody asks."""
    requests: Positive | None = None
    """Of each client, at most."""

    @model_validator(mode="after")
    def _file_of_a_trace(self) -> Arrivals:
        if (self.kind == "trace") != (self.file is not None):
            raise ValueError("a file goes with the kind trace, and with no other")
        return self


class Clients(Table):
    """Clients of one kind."""

    count: Positive = 1
    place: Name = "everywhere"
    machine: Name | None = None
    uplink_mbit: Annotated[float, Field(gt=0)] | None = None
    arrivals: Arrivals = Arrivals()
    prompt_tokens: Positive | Literal["recorded"] = 64
    new_tokens: Positive | Literal["recorded"] = 64
    """`recorded`: as many as each of the recorded texts had."""
    text: Annotated[str, Field(min_length=1, max_length=4096)] | Share = "code-T0"
    """A file of recorded texts, shipped or one's own; or a constant acceptance."""
    draft: Literal["model", "none"] = "model"
    draft_speed: Annotated[float, Field(gt=0)] = 1.0
    """Times as fast as [draft]."""
    draft_at: Literal["auto", "client", "peer"] = "auto"
    window: AnyWindow = "auto"
    """As a client takes it, or by the rule of thumb of `policies.ThresholdWindow`."""
    tree: bool = True
    in_flight: InFlight = "auto"

    @model_validator(mode="after")
    def _recorded_lengths_of_recorded_texts(self) -> Clients:
        if "recorded" in (self.prompt_tokens, self.new_tokens) and not isinstance(self.text, str):
            raise ValueError("a constant acceptance has no recorded lengths: give numbers of tokens")
        return self


class Link(Table):
    """Between two places, one way."""

    delay_ms: Milliseconds = 10.0
    jitter_ms: Milliseconds = 0.0
    """The mean of what comes on top by chance."""
    loss: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the packets."""


class Cores(Table):
    """What sharing a machine costs beyond having a share of it."""

    switch_ms: Milliseconds = 0.0
    """That work takes longer if it finds all cores taken: it is put on one later, and others have used the caches."""


class Transport(Table):
    """What the transport makes of links."""

    message_us: Milliseconds = 0.0
    """That each end computes for a message, which waits for it, ..."""
    kilobyte_us: Milliseconds = 0.0
    """... and for each 1,000 bytes of it."""
    window_bytes: Annotated[float, Field(gt=0)] = float("inf")
    """Sent before an answer must be back; what is longer takes a share of a round trip more."""


class Churn(Table):
    """Peers that come and go."""

    crash_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """Of a peer: how often it dies, its streams with it, ..."""
    hang_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """... falls silent, ..."""
    leave_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """... or says that it leaves, and waits until its clients have moved on."""
    return_seconds: Annotated[float, Field(ge=0)] = 60.0
    """After which another one takes its place, on the average."""

    @property
    def per_second(self) -> float:
        """How often a peer goes, in whatever way."""
        return (self.crash_per_hour + self.hang_per_hour + self.leave_per_hour) / 3600


class Policies(Table):
    """Who decides, where it is to be other than in the real nodes."""

    routing: Literal["ours", "random", "round-robin", "shortest-queue"] = "ours"
    batching: Literal["ours", "first-come"] = "ours"


class Scenario(Table):
    """A whole file."""

    seconds: Annotated[float, Field(gt=0)] = 60.0
    """Of virtual time, at most."""
    model: Model = Model()
    stage: Stage = Stage()
    draft: Draft = Draft()
    peers: Annotated[list[Peers], Field(min_length=1)]
    clients: Annotated[list[Clients], Field(min_length=1)]
    machines: dict[Name, Positive] = {}
    """Cores of each."""
    cores: Cores = Cores()
    """Of all [machines]."""
    link: Link = Link()
    """Between any two places of which [links] says nothing, and within one."""
    links: dict[str, Link] = {}
    """By "place place"."""
    transport: Transport = Transport()
    churn: Churn = Churn()
    policies: Policies = Policies()
    announce_seconds: Annotated[float, Field(gt=0, le=20)] = 20.0
    """Between two announcements of a peer."""


def load(path: Path, changes: dict[str, Any] | None = None) -> Scenario:
    """The scenario in a file, with some keys changed, each given by its path: `clients.0.window`. Raises UsageError."""
    try:
        text = read_bytes(path).decode()
        tables = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from None
    for key, value in (changes or {}).items():
        try:
            _change(tables, key.split("."), value)
        except (AttributeError, IndexError, TypeError, ValueError):
            raise UsageError(f"{path}: there is no place for {key}") from None
    try:
        return Scenario.model_validate(tables)
    except ValidationError as error:
        raise UsageError(f"{path}{complaint(text, tables, Scenario, error)}") from None


def _change(here: Any, keys: list[str], value: Any) -> None:
    """Set one key; of a list of tables in all of them, unless one is named by its number."""
    key, *rest = keys
    if isinstance(here, list) and not key.isdecimal():
        for table in here:
            _change(table, keys, value)
    elif isinstance(here, list):
        _change(here[int(key)], rest, value)
    elif rest:
        _change(here.setdefault(key, {}), rest, value)
    else:
        here[key] = value
