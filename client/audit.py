"""Audits: what the chain made of a text is made again by other peers, and compared.

A second chain, the shadow, of peers that are not in the first one, gets the text as drafts: it must stand by every
token. And where a peer's layers begin in both chains, the two peers there are asked for sketches of what they were
given: the first such place at which these differ shows whose layers were computed differently. Then a third chain, if
there are peers for one, says which of the two is right; else the audited one is not believed.

It finds wrong activations and wrong tokens of any peer of the chain, also of several in league, as soon as one round of
the text is drawn for an audit. It does not find them if peers of the shadow lie in just the same way; nor whoever only
listens. A text that was given out is not taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from client.history import History
from client.routing import Hop, Kind
from swarm import awake
from swarm.errors import ChainLost, PeerError, PeerLied, SwarmUnreachable
from swarm.sketch import ROW_BYTES, distances
from swarm.speculation.tree import DraftTree
from swarm.tasks import end, owned
from swarm.wire import Verdict

log = logging.getLogger("specswarm")

MAX_DRAFTS = 32  # tokens of the text that a round has judged

_TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""How far honest peers' activations are apart at most, relative to their length, in half of all positions; and as much
again after every _DEEP layers: rounding errors grow with what lies behind them."""
_DEEP = 8
_SINGLE = 8.0
"""How many times farther single positions may be apart, where small numbers are left of large ones, ..."""
_WORST = 0.7
"""... but not farther than this: unrelated activations are 1.4 apart."""
_ENOUGH = 8
"""Positions of which half say something: so many are compared, if need be once more."""
_PATIENCES = 3.0
"""How many times as long as the audited chain may take for the text a step of the last audit may, for which the result
waits: an auditor that hangs is found out in two, and another one takes its place."""
_MARGIN = 10.0
"""By how much more a verdict may miss a near tie, in standard deviations of the logits."""


class Seeds:
    """Of the signs with which sketches are made: a secret one for every boundary between layers."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(16)

    def of(self, layer: int) -> int:
        """That of the hops whose layers begin with this one."""
        digest = hashlib.sha256(self._secret + layer.to_bytes(4, "big")).digest()
        return int.from_bytes(digest[:8], "big") >> 1


class Audited(Protocol):
    """What an audit needs of a chain."""

    history: History

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The present ones."""

    @property
    def settled(self) -> int:
        """One past the last position of which all hops were given the text's rows."""

    async def verify(self, tokens: Sequence[int], tree: DraftTree) -> Verdict:
        """The verdict on the drafts of `tree` after the text `tokens`."""

    def patience(self, tokens: int) -> float:
        """Seconds after which the verdict on a round that brings so many tokens would be overdue here."""

    async def recall(self, start: int, end: int) -> dict[int, bytes]:
        """By first layer, the sketches of what the hops that answer were given at these positions."""

    def start_anew(self) -> None:
        """Use nothing any more of what is in the hops' caches."""

    async def close(self) -> None:
        """End the open session, if any."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A peer that is not believed any more."""

    peer_id: str
    position: int
    """Of the text, where its results were found to be wrong; from there on it may not be the target's."""


@dataclass(frozen=True, slots=True)
class _Dispute:
    """Two chains differ."""

    layer: int | None
    """In what the hops that begin with it were given; None: in the verdict."""
    after: int
    """The last layer before, up to which they do not."""
    position: int
    ours: bytes = b""
    theirs: bytes = b""
    """The sketches there."""


class _Unable(Exception):
    """This audit cannot be done."""


class Auditor:
    """Audits the text of one generation, beside it."""

    def __init__(
        self,
        audited: Audited,
        new_chain: Callable[[Callable[[], set[str]], set[Kind]], Audited],
        leave_out: Callable[[PeerError], object],
        start: int,
    ) -> None:
        """`new_chain` makes a chain without the peers that it is told, and of the kinds that it is told; `leave_out` is
        told whom to use no more; tokens from position `start` on are audited."""
        self.audits = 0
        self.skipped = 0
        self.suspects: list[Suspect] = []
        self._audited = audited
        self._new_chain = new_chain
        self._leave_out = leave_out
        self._due: list[int] = []  # the text up to which to audit, ...
        self._done = 0  # ... and how many of its tokens were
        self._judged = start  # tokens that need not be judged again
        self._compared = 0  # rows that need not be compared again, ...
        self._of: tuple[tuple[Hop, ...], ...] = ()  # ... of these two chains
        self._is_open = self._is_last = (
            False  # whether too little could be compared; whether no more text will come
        )
        self._steps = 0  # that audits have made
        self._shadow: Audited | None = None
        self._task: asyncio.Task[None] | None = None

    def audit(self, text: Sequence[int]) -> None:
        """Have the text audited up to here, in the background."""
        self._due = list(text)
        if self._task is not None and self._task.done():
            self._task.result()  # a bug of ours is not lost
            self._task = None
        if self._task is None:
            self._task = owned(self._work(), "auditing")

    async def finish(self, text: Sequence[int]) -> None:
        """Wait for what is due, of the whole text if anything was left open, for as long as the auditors get on: the
        text is there already."""
        if self._task is not None:
            await self._get_on(self._task, len(text))
        if self._is_open:
            self._due, self._done, self._is_last = list(text), 0, True
            self._task = owned(self._work(), "auditing")
            await self._get_on(self._task, len(text))

    async def _get_on(self, task: asyncio.Task[None], length: int) -> None:
        """Wait for the audit of a text of so many tokens; one that has not made a step for too long is skipped."""
        while not task.done():
            steps = self._steps
            with contextlib.suppress(TimeoutError):
                async with awake.timeout(_PATIENCES * self._audited.patience(length)):
                    await asyncio.wait([task])
            if not task.done() and self._steps == steps:
                await end(task)
        if task.cancelled():
            self.skipped += 1
            self._is_open = False
            log.info("the last audit was given up: the auditors do not get on")
        else:
            task.result()  # a bug of ours is not lost

    async def close(self) -> None:
        """Stop, whatever is due."""
        if self._task is not None:
            await end(self._task)
        await self._drop_shadow()

    async def _work(self) -> None:
        while len(self._due) > self._done:
            text = self._due
            try:
                await self._audit(text)
                self.audits += 1
            except (ChainLost, PeerError, SwarmUnreachable, _Unable) as error:
                if not self.skipped:
                    log.info("no audit was possible: %s", error)
                self.skipped += 1
                await self._drop_shadow()
            self._done = max(self._done, len(text))

    async def _audit(self, text: list[int]) -> None:
        """Have the shadow judge the text, and compare. Raises what keeps it from that."""
        while True:
            shadow = await self._other_chain()
            wrong = await self._judge(shadow, text, self._judged)
            of = (self._audited.hops, shadow.hops)
            end = min(len(text) - 1, self._audited.settled, shadow.settled)
            start = min(self._compared, max(end - _ENOUGH, 0)) if of == self._of else 0
            self._is_open = bool(wrong) and end < _ENOUGH and not self._is_last
            if self._is_open:  # whose wrong token it is cannot be told yet
                return
            dispute = await self._compare(shadow, start, end, wrong)
            if dispute is None:
                break
            if await self._is_shadow_right(shadow, dispute, text):
                self._convict(self._audited, dispute)
                break
            self._convict(shadow, dispute)
            await self._drop_shadow()
        self._judged, self._compared, self._of = len(text), end, of

    async def _other_chain(self) -> Audited:
        """The shadow: none of its peers is in the audited chain."""
        if self._shadow is not None and _peers(self._shadow) & _peers(self._audited):
            await self._drop_shadow()
        if self._shadow is None:
            self._shadow = self._new_chain(lambda: _peers(self._audited), self._audited.history.kinds)
        return self._shadow

    async def _drop_shadow(self) -> None:
        shadow, self._shadow = self._shadow, None
        if shadow is not None:
            await shadow.close()

    async def _judge(self, chain: Audited, text: list[int], start: int) -> list[int]:
        """The positions from `start` on whose tokens the chain does not stand by, near ties apart."""
        wrong: list[int] = []
        position = start
        while position < len(text):
            verdict = await chain.verify(text[:position], DraftTree.chain(text[position : position + MAX_DRAFTS]))
            self._steps += 1
            position += len(verdict.tokens) - 1
            if position < len(text) and verdict.tokens[-1] != text[position]:
                is_tie = verdict.margin is not None and verdict.margin <= _MARGIN * self._tolerance(chain)
                wrong += [] if is_tie else [position]
            position += 1
        return wrong

    async def _compare(self, shadow: Audited, start: int, end: int, wrong: list[int]) -> _Dispute | None:
        """The first place where the rows start..end of the two chains differ, or their verdicts do. Raises _Unable."""
        self._check_kinds(shadow)
        ours, theirs = await asyncio.gather(self._audited.recall(start, end), shadow.recall(start, end))
        self._steps += 1
        whole = (end - start) * ROW_BYTES
        common = [
            layer for layer in sorted(ours.keys() & theirs.keys()) if len(ours[layer] + theirs[layer]) == 2 * whole
        ]
        after = 0
        for layer in common:
            far = self._far_apart(shadow, layer, distances(ours[layer], theirs[layer]))
            if far is not None:
                row = slice(far * ROW_BYTES, (far + 1) * ROW_BYTES)
                return _Dispute(layer, after, start + far, ours[layer][row], theirs[layer][row])
            after = layer
        if not wrong:
            return None
        # what was judged before this session was opened, was judged of rows that are not there any more
        return _Dispute(None, after if wrong[-1] >= self._audited.history.opened_at else 0, wrong[-1])

    async def _is_shadow_right(self, shadow: Audited, dispute: _Dispute, text: list[int]) -> bool:
        """What a third chain says; without one, the audited chain is not believed."""
        disputed = {
            hop.contact.peer_id for chain in (self._audited, shadow) for hop in _in_question(chain, dispute)
        }
        third = self._new_chain(lambda: disputed, self._audited.history.kinds)
        try:
            wrong = await self._judge(third, text, max(self._judged, 1))
            if dispute.layer is None:
                return dispute.position in wrong
            recalled = await third.recall(dispute.position, dispute.position + 1)
            opinion = recalled.get(dispute.layer, b"")
            if not opinion:
                return True
            return distances(dispute.theirs, opinion)[0] < distances(dispute.ours, opinion)[0]
        except (ChainLost, PeerError, SwarmUnreachable):
            return True
        finally:
            await third.close()

    def _convict(self, chain: Audited, dispute: _Dispute) -> None:
        """Leave out the peers whose layers were computed wrongly, and all that came of them."""
        hops = _in_question(chain, dispute)
        if {suspect.peer_id for suspect in self.suspects} & {hop.contact.peer_id for hop in hops}:
            return  # that is what came of it before it was left out
        for hop in hops:
            peer_id = hop.contact.peer_id
            where = f"layers {hop.span} at position {dispute.position}"
            error = PeerLied(peer_id, f"others compute {where} differently")
            self.suspects.append(Suspect(peer_id, dispute.position))
            self._leave_out(error)
            log.warning("left out %s", error)
            if chain is self._audited:
                chain.start_anew()

    def _check_kinds(self, shadow: Audited) -> None:
        """Raise _Unable if honest peers of the two chains would differ."""
        if {kind[1] for kind in self._audited.history.kinds} != {kind[1] for kind in shadow.history.kinds}:
            raise _Unable("no other peers compute alike")

    def _far_apart(self, chain: Audited, layers: int, rows: Sequence[float]) -> int | None:
        """One of the rows that come out of so many layers and are farther apart than rounding explains, if any are."""
        tolerance = self._tolerance(chain) * (1 + layers / _DEEP)
        far = [i for i, row in enumerate(rows) if row > min(_SINGLE * tolerance, _WORST)]
        if far:
            return far[-1]
        is_everywhere = len(rows) >= _ENOUGH and statistics.median(rows) > tolerance
        return max(range(len(rows)), key=rows.__getitem__) if is_everywhere else None

    def _tolerance(self, chain: Audited) -> float:
        return max(_TOLERANCE[dtype] for dtype, _ in self._audited.history.kinds | chain.history.kinds)


def _in_question(chain: Audited, dispute: _Dispute) -> list[Hop]:
    """The hops of a chain in whose layers it differs from another."""
    given = [chain.history.since(hop) for hop in chain.hops if hop.span.start == dispute.layer]
    hops = chain.history.at(max([dispute.position, *given]))
    before = dispute.layer or max((hop.span.end for hop in hops), default=0)
    return [hop for hop in hops if hop.span.end > dispute.after and hop.span.start < before]


def _peers(chain: Audited) -> set[str]:
    return {hop.contact.peer_id for hop in chain.hops}
