"""What this peer passed on, kept so that it can be passed on again: to whoever takes the next hop's place.

A row is the hidden state at one position of the text. Rows are cut as caches are overwritten: a round replaces
everything from its own position on. So the log always holds what the next peer's cache must have been made of; of the
newest round it has the branches, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from swarm.wire import Compute, Round, beyond

CHUNK = 128
"""Rows that are passed on again in one message, at most: the next peer computes while more are on their way."""

Result = tuple[Round, bytes, Compute]
"""A round, its rows (raw values, in the wire's form), and the seconds that each stage took."""


class Sent:
    """The rows of one session from position `first` on, in the pieces in which they were sent."""

    def __init__(self) -> None:
        self.first = 0
        self.num_bytes = 0
        self._tokens: list[int] = []  # the ids from `first` on
        self._pieces: list[tuple[int, bytes]] = []  # (position, rows), each beginning where the last one ends
        self._row_bytes = 0
        self._newest: tuple[Round, Compute] | None = None
        self._branches = b""  # the newest round's rows beside text and trunk

    @property
    def end(self) -> int:
        """One past the last position."""
        return self.first + len(self._tokens)

    def keep(self, round: Round, rows: bytes, compute: Compute) -> None:
        """Take note of the result of a round, in place of what was there from its position on."""
        self._cut(round.position)
        self._row_bytes = len(rows) // len(round.tokens)
        kept = round.num_kept
        self._tokens += round.tokens[:kept]
        self._pieces.append((round.position, rows[: kept * self._row_bytes]))
        self._branches = rows[kept * self._row_bytes :]
        self.num_bytes += len(rows)
        self._newest = (round, compute)

    def since(self, position: int, chunk: int, judged: int = 0, settled: int = 0) -> Iterator[Result]:
        """What is to be passed on again from `position` on: at most `chunk` tokens of text at a time, then the newest
        round as it was; of one that is longer, the text alone: its client cuts the drafts, and sends them again. If the
        newest is none after `judged`, it has its verdict: then all is text, and ends at `settled`.

        Nothing, if the log does not reach back so far.
        """
        if self._newest is None or position < self.first:
            return
        newest, compute = self._newest
        if settled and newest.number <= judged:
            yield from self.text(position, settled, chunk)
            return
        rest = beyond(newest, position)
        fits = rest is None or len(rest.tokens) <= chunk
        yield from self.text(position, newest.position + (0 if fits else newest.num_text), chunk)
        if rest is not None and fits:
            branches = self._branches if rest.num_drafts else b""
            rest = msgspec.structs.replace(rest, continues=position < newest.position)
            yield rest, self._rows(rest.position, self.end) + branches, compute

    def text(self, start: int, end: int, chunk: int) -> Iterator[Result]:
        """The positions start..end, as far as the log has them, in rounds of at most `chunk` tokens, none judged."""
        if self._newest is None or start < self.first:
            return
        newest, end = self._newest[0], min(end, self.end)
        step = min(chunk, CHUNK)
        for low in range(start, end, step):
            high = min(low + step, end)
            tokens = tuple(self._tokens[low - self.first : high - self.first])
            round = Round(newest.session, newest.number, low, tokens, 0, judged=False, continues=low > start)
            yield round, self._rows(low, high), ()

    def drop(self) -> None:
        """Forget the rows; the log begins anew with what comes next."""
        end = self.end
        self._cut(self.first)
        self.first, self._newest = end, None

    def _cut(self, position: int) -> None:
        """Forget the rows from `position` on, and all branches."""
        self.num_bytes -= len(self._branches)
        self._branches = b""
        while self._pieces and self._pieces[-1][0] >= position:
            self.num_bytes -= len(self._pieces.pop()[1])
        if self._pieces:
            start, rows = self._pieces[-1]
            kept = rows[: (position - start) * self._row_bytes]
            self._pieces[-1] = (start, kept)
            self.num_bytes += len(kept) - len(rows)
        else:
            self.first = position
        del self._tokens[position - self.first :]

    def _rows(self, start: int, end: int) -> bytes:
        """The rows of the positions start..end."""
        size = self._row_bytes
        parts = [rows[max(start - at, 0) * size : max(end - at, 0) * size] for at, rows in self._pieces]
        return b"".join(parts)


class SentStore:
    """The logs of all sessions, within a budget of bytes: over it, the longest unused one is dropped."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._logs: OrderedDict[bytes, Sent] = OrderedDict()
        self.num_bytes = 0

    def open(self, session: bytes) -> Sent:
        """An empty log for a session."""
        self.close(session)
        log = self._logs[session] = Sent()
        return log

    def keep(self, round: Round, rows: bytes, compute: Compute) -> None:
        """Take note of the result of a round of an open session."""
        log = self._logs[round.session]
        self._logs.move_to_end(round.session)
        before = log.num_bytes
        log.keep(round, rows, compute)
        self.num_bytes += log.num_bytes - before
        if self.num_bytes > self._max_bytes:
            self._make_room()

    def close(self, session: bytes) -> None:
        """Forget a session's log; one that is not open is no error."""
        log = self._logs.pop(session, None)
        if log is not None:
            self._drop(log)

    def _make_room(self) -> None:
        for log in self._logs.values():
            if self.num_bytes > self._max_bytes:
                self._drop(log)

    def _drop(self, log: Sent) -> None:
        self.num_bytes -= log.num_bytes
        log.drop()
