"""Every message that crosses the network: its fields and their limits. Their bytes: see `swarm.codec`.

client -> peer   Open, Round, Proofs, Views, Relink, Copy, Ask, Recall, Ping, Generate, Inspect
peer -> client   Refused, Verdict, Broken, Leaving, Progress, Recalled, Pong, Generated, Inspected
peer -> peer     Hidden
whoever opens a stream of a private swarm   Hello
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from swarm import PROTOCOL
from swarm.errors import MAX_REASON, Why
from swarm.sketch import ROW_BYTES
from swarm.speculation.evidence import MAX_WEIGHT
from swarm.speculation.sampling import Sampling
from swarm.speculation.semantic import CHOICES, Leniency
from swarm.speculation.tree import trunk

MAX_STATES = 8 << 20
"""Bytes of a round's hidden states: no node's event loop is held up for long by a message. A peer takes no more tokens
at a time, and gives no more, than fit: 256 with 8,192 float32 each."""
MAX_MESSAGE = MAX_STATES + (1 << 20)  # bytes
MAX_ROUND_TOKENS = 2048
MAX_AHEAD = 4096
"""Tokens of a text that a client lets be on their way at a time: sent, and not yet run by every hop; also those that it
has passed on again to a hop. Peers may refuse more than twice as many."""
MAX_DRAFTS = 512  # of one round
MAX_TAIL = 16
"""Tokens of the text that a round brings along before its newest one; more of them go ahead, as a prefill."""

SESSION_PROTOCOL = f"/specswarm/session/{PROTOCOL}"  # a client opens it to every peer of its chain
PUSH_PROTOCOL = f"/specswarm/push/{PROTOCOL}"  # a peer opens it to the next one
DRAFT_PROTOCOL = f"/specswarm/draft/{PROTOCOL}"  # a client opens it to a peer that drafts for it

MAX_MADDRS = 32  # addresses of one peer
MAX_PEER_ROUND = 1 << 20  # tokens of one round: what a peer may say that it takes

MAX_SESSION_MESSAGE = 1 << 16  # bytes on a stream to or from a client; the longest round takes 10 KiB
MAX_DRAFT_MESSAGE = 1 << 20  # bytes on a stream to or from a peer that drafts; the longest text takes as much
MAX_SIZES = {
    SESSION_PROTOCOL: MAX_SESSION_MESSAGE,
    PUSH_PROTOCOL: MAX_MESSAGE,
    DRAFT_PROTOCOL: MAX_DRAFT_MESSAGE,
}

MAX_TEXT = 1 << 17  # tokens of a text that somebody else goes on with
MAX_HOPS = 256  # of a chain

MAX_EVIDENCE = 4096  # choices of one draft
MAX_CHOICES = 1 << 15  # of all drafts of a round
MAX_RECALLED = 512  # positions of one Recall

MAX_COMPLAINTS = 64  # of which an owner is told, ...
MAX_COMPLAINT = 200  # ... and characters of one

_OVERHEAD = 1000  # bytes of a message in memory beside its states and tokens

NO_SESSION = bytes(16)  # stands where a message concerns no session

_OWN = 8  # bytes of a session's id that say whose it is

SessionId = Annotated[bytes, Meta(min_length=16, max_length=16)]
PeerId = Annotated[str, Meta(min_length=1, max_length=128)]
Maddr = Annotated[str, Meta(max_length=256)]
MAX_COUNT = 1 << 31
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
TokenId = Annotated[int, Meta(ge=0, le=1 << 31)]
Tokens = Annotated[tuple[TokenId, ...], Meta(min_length=1, max_length=MAX_ROUND_TOKENS)]
Node = Annotated[int, Meta(ge=-1, le=2 * MAX_DRAFTS)]
Chunk = Annotated[int, Meta(ge=1, le=MAX_ROUND_TOKENS)]
Seed = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Seconds = Annotated[float, Meta(ge=0, le=86400)]
Text = Annotated[str, Meta(max_length=MAX_REASON)]
Rule = Literal["match", "rejection", "semantic"]
Wire = Literal["exact", "int8"]
"""In which form hidden states go from hop to hop: in the model's dtype, or in int8, which is lossy."""
Form = Literal["float32", "bfloat16", "float16", "int8"]
"""Of the values of hidden states."""
Compute = Annotated[tuple[Seconds, ...], Meta(max_length=256)]  # one for each hop


@dataclass(frozen=True, slots=True)
class Contact:
    """Where a peer is: its id, and addresses at which it may be dialled (none: ask the network)."""

    peer_id: PeerId
    maddrs: Annotated[tuple[Maddr, ...], Meta(max_length=MAX_MADDRS)] = ()

    @property
    def is_relayed(self) -> bool:
        """Whether it is behind NAT: others reach it through relays, unless it has dialled them."""
        return any("/p2p-circuit" in maddr for maddr in self.maddrs)


class Introduction(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a peer is, and how much it takes at a time, as it has signed (see `swarm.records`): by this others dial it,
    and nobody in another's name."""

    contact: Contact
    max_round: Annotated[int, Meta(ge=1, le=MAX_PEER_ROUND)]
    """Most tokens of one round."""
    issued: Annotated[float, Meta(ge=0)]
    """When it said so, by its own clock, in seconds since 1970."""
    digest: Annotated[bytes, Meta(min_length=32, max_length=32)]
    """SHA-256 of the record of which this is part."""
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages."""


class Open(Message, frozen=True, tag=1):
    """Take part in a chain: serve layers start..end of the model, fed by `upstream`, feeding `downstream`.

    Without `upstream` token ids come from the client; the last hop, without `downstream`, judges by `sampling` and
    answers the client. Another hop without it only computes and keeps, until a Relink makes it part of the chain.
    Silence is consent: the first round may follow at once. The session ends with the stream it was opened on. Who opens
    an open session again replaces it. Its id is one of this client's (see `new_session_id`).

    What this hop computes for positions below `holds` it keeps, but does not pass on: the next hop has them already.
    Whatever it passes on goes in messages of at most `chunk` tokens.

    With `witness` the client audits: the hop keeps sketches of its input, with signs of that seed, for a Recall, and
    says how clear the verdicts are that stop at a draft.
    """

    session: SessionId
    fingerprint: Annotated[str, Meta(min_length=64, max_length=64)]
    start: Count
    end: Count
    upstream: PeerId | None
    downstream: Introduction | None
    holds: Count
    chunk: Chunk
    sampling: Sampling
    witness: Seed | None = None
    rule: Rule = "match"
    """By which the last hop judges."""
    leniency: Leniency | None = None
    """Under the rule `semantic`."""
    wire: Wire = "exact"
    """How this hop passes its results on, and is given its input."""


class Refused(Message, frozen=True, tag=2):
    """The peer will not do what was asked, and nothing has changed; the reason is one line."""

    session: SessionId
    why: Why
    reason: Text


class Round(Message, frozen=True, tag=3):
    """Tokens from `position` on: text the caches lack, the newest committed token, then `num_drafts` drafts.

    The drafts may be a tree (see `speculation.tree`). A cache keeps the text and the tree's trunk, by position, and a
    round overwrites from its own position on: that alone rolls a rejected draft back. What stands and is not of the
    trunk comes again, as text, with the next round. Only a round with `judged` brings a verdict; the others are chunks
    of a longer prefill. `number` is that of the verdict they all work for, and so it stays when a round is sent again
    after a fault.
    """

    session: SessionId
    number: Count
    position: Count
    tokens: Tokens
    num_drafts: Annotated[int, Meta(ge=0, le=MAX_DRAFTS)]
    judged: bool
    parents: Annotated[tuple[Node, ...], Meta(max_length=MAX_DRAFTS)] = ()
    """Of each draft in a tree; none: each follows the one before."""
    grown: Annotated[int, Meta(ge=0, le=MAX_DRAFTS)] = 0
    """More of a tree: so many of its drafts were sent in the rounds before. The tokens are drafts alone; they follow
    those, and are numbered after them, and `position` says nothing new."""
    continues: bool = False
    """It goes on where one of the same number that was sent before it ends: without that one, it is not to be run, for
    a cache may still hold drafts there that do not stand."""

    @property
    def num_text(self) -> int:
        """How many of the tokens are no drafts."""
        return len(self.tokens) - self.num_drafts

    @property
    def num_kept(self) -> int:
        """How many of the tokens caches keep by position: the text and the trunk, unless it is more of a tree."""
        if self.grown:
            return 0
        return self.num_text + trunk(self.parents) if self.parents else len(self.tokens)

    @property
    def end(self) -> int:
        """One past the last position that caches keep."""
        return self.position + self.num_kept


class Hidden(Message, frozen=True, tag=4):
    """A round on its way: hidden states [len(tokens), hidden size] after a peer's layers, a row for each token.

    The states are those after the model's layers 0..`layer`: whoever computed them, and when, they are the same. The
    ids travel along, for the last peer compares and counts them; `compute` has the seconds each stage took.

    `dtype` is that of the raw values, or int8 (see `swarm.rows`).
    """

    round: Round
    layer: Count
    dtype: Form
    states: bytes
    compute: Compute
    packed: bool = False
    """Whether `states` is what `swarm.packing` made of the rows."""


class Verdict(Message, frozen=True, tag=5):
    """The last peer's judgement of a round: the drafts that stand, then the target's own next token."""

    session: SessionId
    number: Count
    tokens: Tokens
    compute: Compute
    margin: Annotated[float, Meta(ge=0)] | None = None
    """In a session with a witness, of a chain of drafts, by how much the last of them beats the draft in its place: see
    `sampling.lead`."""


class Broken(Message, frozen=True, tag=6):
    """A hop of the session failed while this peer served it: `peer_id` says which one."""

    session: SessionId
    peer_id: PeerId
    reason: Text


class Ping(Message, frozen=True, tag=7):
    """Answer at once: what the round trip takes is the links' latency."""

    nonce: Count


class Pong(Message, frozen=True, tag=8):
    """The answer to a Ping."""

    nonce: Count


class Relink(Message, frozen=True, tag=9):
    """These are the session's neighbours from now on; `holds` and `chunk` as in Open.

    What was passed on from position `holds` on is passed on again, to the next hop as it is now; the newest round as
    the round it was, unless it has its verdict: then as text, and from position `settled` on not at all, for what
    stands there comes anew.
    """

    session: SessionId
    upstream: PeerId | None
    downstream: Introduction | None
    holds: Count
    chunk: Chunk
    judged: Count = 0
    """The newest round that began a tree and on which there is a verdict, ..."""
    settled: Count = 0
    """... and one past the last position of which every hop had the rows of the text then; 0: there was no verdict."""


class Ask(Message, frozen=True, tag=10):
    """How far did the session get here? To be answered as soon as the text up to position `held` has been run."""

    session: SessionId
    nonce: Count
    held: Count


class Progress(Message, frozen=True, tag=11):
    """The answer to an Ask: how far the session got at this peer."""

    session: SessionId
    nonce: Count
    taken: Count
    """Number of the newest round that was admitted, and one more; 0: none was."""
    held: Count
    """Positions of the text that are, or will be when the admitted rounds have run, in its cache."""
    waiting: Count
    """Admitted rounds that have not run yet."""
    kept: Count
    """The first position from which on it could pass its results on again."""
    computed: Count
    """Where the round ends that was run last here: less than before, if text is run again; ..."""
    worked: Count
    """... a count that changes with every token of any session that is run here, ..."""
    queued: Count
    """... and tokens, of all sessions, that wait here or are run."""


class Copy(Message, frozen=True, tag=12):
    """Bring another peer, too, what was passed on of the positions start..end: as text, `chunk` tokens at a time."""

    session: SessionId
    to: Introduction
    start: Count
    end: Count
    chunk: Chunk


class Leaving(Message, frozen=True, tag=13):
    """This peer will be gone in so many seconds, or as soon as no session is open any more."""

    seconds: Seconds


class Hello(Message, frozen=True, tag=14):
    """The first message on every stream of a private swarm: who opened it is a member."""

    badge: Annotated[bytes, Meta(max_length=64)]


class Recall(Message, frozen=True, tag=15):
    """Of which input was this hop a witness, at the positions start..end? The first MAX_RECALLED of them count."""

    session: SessionId
    nonce: Count
    start: Count
    end: Count


class Recalled(Message, frozen=True, tag=16):
    """The answer to a Recall: the sketches, as far as there are any."""

    session: SessionId
    nonce: Count
    sketches: Annotated[bytes, Meta(max_length=MAX_RECALLED * ROW_BYTES)]


Weight = Annotated[int, Meta(ge=1, le=MAX_WEIGHT)]
Ids = Annotated[tuple[TokenId, ...], Meta(min_length=1, max_length=MAX_EVIDENCE)]
Weights = Annotated[tuple[Weight, ...], Meta(min_length=1, max_length=MAX_EVIDENCE)]
FewIds = Annotated[tuple[TokenId, ...], Meta(min_length=1, max_length=CHOICES)]
FewWeights = Annotated[tuple[Weight, ...], Meta(min_length=1, max_length=CHOICES)]


class Proofs(Message, frozen=True, tag=17):
    """Under the rule `rejection`, straight to the last hop: of each draft of round `number`, what it was drawn from, as
    token ids and their weights (see `speculation.evidence`). What is too much for one message comes in several."""

    session: SessionId
    number: Count
    ids: Annotated[tuple[Ids, ...], Meta(max_length=MAX_DRAFTS)]
    weights: Annotated[tuple[Weights, ...], Meta(max_length=MAX_DRAFTS)]
    first: Annotated[int, Meta(ge=0, le=MAX_DRAFTS)] = 0
    """The first of the drafts that this message is about; those before it were in others."""


class Generate(Message, frozen=True, tag=18):
    """Go on with this text for me, by at most `count` tokens, with a chain and drafts of your own.

    The generation ends with the stream.
    """

    fingerprint: Annotated[str, Meta(min_length=64, max_length=64)]
    text: Annotated[tuple[TokenId, ...], Meta(min_length=1, max_length=MAX_TEXT)]
    count: Annotated[int, Meta(ge=1, le=MAX_TEXT)]
    sampling: Sampling
    rule: Rule
    leniency: Leniency | None
    """Under the rule `semantic`."""
    window: Annotated[int, Meta(ge=0, le=MAX_DRAFTS)] | Literal["auto", "awc"]
    """Drafts of a round, or who decides."""
    tree: bool
    in_flight: Annotated[int, Meta(ge=1, le=MAX_DRAFTS)] | Literal["auto"]
    """Rounds."""
    evidence_k: Annotated[int, Meta(ge=1, le=MAX_EVIDENCE)] | Literal["auto"]
    """Choices with each draft, under `rejection`."""


class Generated(Message, frozen=True, tag=19):
    """A verdict's tokens, and what they took."""

    tokens: Tokens
    drafted: Count
    accepted: Count
    draft_seconds: Seconds
    trip_seconds: Seconds
    compute: Seconds
    reroutes: Count
    """So far."""
    chain: Annotated[tuple[tuple[PeerId, Count, Count], ...], Meta(max_length=MAX_HOPS)] = ()
    """The peers and their layers, start and end, where they are others than before."""


class Views(Message, frozen=True, tag=20):
    """Under the rule `semantic`, straight to the last hop: of each node with drafts behind it in round `number`, in
    order, what the draft holds of what follows it, as token ids and their weights (see `speculation.evidence`)."""

    session: SessionId
    number: Count
    ids: Annotated[tuple[FewIds, ...], Meta(max_length=MAX_DRAFTS)]
    weights: Annotated[tuple[FewWeights, ...], Meta(max_length=MAX_DRAFTS)]


class Complaint(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a node has done that this one refused, ended or ignored."""

    peer_id: PeerId
    kind: Annotated[str, Meta(max_length=16)]
    text: Annotated[str, Meta(max_length=MAX_COMPLAINT)]
    times: Count
    seconds: Seconds
    """Since the last time."""


class Inspect(Message, frozen=True, tag=21):
    """The peer's owner wants to know whom it limits: whoever signs with its key (see `swarm.inspection`)."""

    at: Annotated[float, Meta(ge=0)]
    """When, in seconds since 1970."""
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Inspected(Message, frozen=True, tag=22):
    """The answer, the last ones first."""

    complaints: Annotated[tuple[Complaint, ...], Meta(max_length=MAX_COMPLAINTS)]


AnyMessage = (
    Open
    | Refused
    | Round
    | Hidden
    | Verdict
    | Broken
    | Ping
    | Pong
    | Relink
    | Ask
    | Progress
    | Copy
    | Leaving
    | Hello
    | Recall
    | Recalled
    | Proofs
    | Generate
    | Generated
    | Views
    | Inspect
    | Inspected
)


def new_session_id(client: str) -> bytes:
    """A fresh id of a session of that client, a peer id: nobody else may open it, also who has heard of it."""
    return _mark(client) + secrets.token_bytes(16 - _OWN)


def client_mark(session: bytes) -> bytes:
    """Of a session's id: what those of one client have in common."""
    return session[:_OWN]


def is_session_of(session: bytes, client: str) -> bool:
    """Whether this client may open a session of that id."""
    return client_mark(session) == _mark(client)


def _mark(client: str) -> bytes:
    return hashlib.sha256(client.encode()).digest()[:_OWN]


def size_of(message: AnyMessage) -> int:
    """Bytes of memory it takes, roughly: what may be long of it, and something for all the rest."""
    match message:
        case Hidden():
            return len(message.states) + _OVERHEAD + 8 * len(message.round.tokens)
        case Recalled():
            return len(message.sketches) + _OVERHEAD
        case Verdict():
            return 8 * len(message.tokens) + _OVERHEAD
        case Inspected():
            return _OVERHEAD * (1 + len(message.complaints))
        case _:
            return _OVERHEAD


def fitting(round: Round, chunk: int) -> list[Round]:
    """A round as it is, if it has at most `chunk` tokens; else its text, in rounds of so many of them, none judged: its
    client cuts the drafts, and sends them again."""
    if len(round.tokens) <= chunk:
        return [round]
    return [
        Round(
            round.session,
            round.number,
            round.position + start,
            round.tokens[start : min(start + chunk, round.num_text)],
            0,
            judged=False,
            continues=round.continues or start > 0,
        )
        for start in range(0, round.num_text, chunk)
    ]


def parted(round: Round, tokens: int) -> tuple[Round, Round]:
    """The first `tokens` tokens of a round's text, which are not judged, and the rest of the round, which follows them.

    `tokens`: fewer than its text has.
    """
    first = msgspec.structs.replace(round, tokens=round.tokens[:tokens], num_drafts=0, judged=False, parents=())
    position, rest = round.position + tokens, round.tokens[tokens:]
    return first, msgspec.structs.replace(round, position=position, tokens=rest, continues=True)


def joined(first: Round, second: Round) -> Round:
    """One round of two parts of one, the second of which follows the first: what `parted` parts."""
    return msgspec.structs.replace(
        second, position=first.position, tokens=first.tokens + second.tokens, continues=first.continues
    )


def beyond(round: Round, position: int) -> Round | None:
    """The part of a round from `position` on, None if there is none.

    It continues nothing, if it begins there: what is before was not sent. Without its newest committed token it cannot
    be judged: then the rest of the trunk is text. More of a tree is behind every position of the text.
    """
    if round.grown:
        return round
    cut = position - round.position
    if cut < 0:
        return round
    if cut < round.num_text:
        return msgspec.structs.replace(round, position=position, tokens=round.tokens[cut:], continues=False)
    if cut >= round.num_kept:
        return None
    rest = round.tokens[cut : round.num_kept]
    return Round(round.session, round.number, position, rest, 0, judged=False)
