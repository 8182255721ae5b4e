"""What the lab and its router say to each other: one command, one reply, each a datagram of JSON.

Commands are checked where they are made (`ValueError`); whoever holds one may trust it. The numbers of hosts
are the exception: only the lab knows how many there are, so it checks those.
"""

import msgspec

MAX_HOSTS = 64
"""Hosts of one lab: keeps the largest reply (64 * 63 pairs) within one datagram."""


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Common settings: immutable, named on the wire by the class, unknown fields refused."""


class Links(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the network is like at first."""

    hosts: int
    delay_ms: float
    """One way, between any two hosts."""
    jitter_ms: float
    """Mean of the exponentially distributed extra delay of each packet."""
    loss: float
    """Chance of each packet to be lost."""
    rate_mbit: float | None
    """Upload rate of each host in 10^6 bits/s; None: unlimited."""
    reorder: bool
    """Whether jitter may let a packet overtake an earlier one of its pair."""
    seed: int
    """Of the generator that draws losses and jitter."""
    behind_nat: tuple[int, ...] = ()
    """Hosts that hear only from an address and port to which they have sent."""

    def __post_init__(self) -> None:
        if not 1 <= self.hosts <= MAX_HOSTS:
            raise ValueError(f"a lab has 1 to {MAX_HOSTS} hosts, not {self.hosts}")
        _check_ms("delay", self.delay_ms)
        _check_ms("jitter", self.jitter_ms)
        _check_loss(self.loss)
        _check_rate(self.rate_mbit)
        if not set(self.behind_nat) <= set(range(self.hosts)):
            raise ValueError(f"hosts behind NAT are of 0 to {self.hosts - 1}, not {self.behind_nat}")


class Start(_Message, frozen=True):
    """The first command, sent with one TUN file descriptor per host."""

    subnet: str
    """First three bytes of every address, such as "10.77.0"; host i is `subnet`.(i + 1)."""
    links: Links


class SetDelay(_Message, frozen=True):
    """One-way delay becomes `ms`, both ways of `pair`, or of every pair."""

    ms: float
    pair: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _check_ms("delay", self.ms)


class SetLoss(_Message, frozen=True):
    """Each packet is lost with this probability."""

    probability: float

    def __post_init__(self) -> None:
        _check_loss(self.probability)


class SetRate(_Message, frozen=True):
    """One host, or each, uploads at most `mbit` 10^6 bits/s; None: unlimited."""

    mbit: float | None
    host: int | None = None

    def __post_init__(self) -> None:
        _check_rate(self.mbit)


class Cut(_Message, frozen=True):
    """The host drops off the network; packets on their way to it are lost."""

    host: int


class Heal(_Message, frozen=True):
    """The host is back."""

    host: int


class GetTraffic(_Message, frozen=True):
    """Answered by `TrafficReport`; every other command by `Done`."""


class ResetTraffic(_Message, frozen=True):
    """Counters start from zero."""


class Traffic(msgspec.Struct, frozen=True, array_like=True):
    """What one host sent another, lost packets left out."""

    packets: int
    bytes: int
    """Whole IP packets: headers, handshakes and retransmissions included."""


class Done(_Message, frozen=True):
    """The command is in effect."""


class TrafficReport(_Message, frozen=True):
    """Rows of (source, destination, traffic) for the pairs that had any."""

    rows: list[tuple[int, int, Traffic]]


Command = Start | SetDelay | SetLoss | SetRate | Cut | Heal | GetTraffic | ResetTraffic
Reply = Done | TrafficReport

MAX_DATAGRAM = 1 << 18
"""Bytes; more than any message here has."""

encode = msgspec.json.Encoder().encode
_commands: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_replies: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


def decode_command(datagram: bytes) -> Command:
    """Read a command; msgspec.DecodeError if it is none."""
    return _commands.decode(datagram)


def decode_reply(datagram: bytes) -> Reply:
    """Read a reply; msgspec.DecodeError if it is none."""
    return _replies.decode(datagram)


def _check_ms(what: str, ms: float) -> None:
    if not 0 <= ms < float("inf"):
        raise ValueError(f"a {what} is 0 ms or more, not {ms}")


def _check_loss(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"a loss is a probability from 0 to 1, not {probability}")


def _check_rate(mbit: float | None) -> None:
    if mbit is not None and not 0 < mbit < float("inf"):
        raise ValueError(f"a rate is above 0 Mbit/s, or None for unlimited, not {mbit}")
