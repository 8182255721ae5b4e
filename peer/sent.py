"""What this peer passed on, kept so that it can be passed on again: to whoever takes the next hop's place.

A row is the hidden state at one position of the text. Rows are cut as caches are overwritten: a round replaces
everything from its own position on. So the log always holds what the next peer's cache must have been made of; of the
newest round it has the branches, too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from operator import itemgetter
from weakref import WeakSet

import msgspec

from peer.room import Holding, of_the_greatest
from swarm.wire import MAX_STATES, Compute, Round, beyond

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
        self._read: WeakSet[Again] = WeakSet()  # by whom

    @property
    def end(self) -> int:
        """One past the last position."""
        return self.first + len(self._tokens)

    @property
    def is_read(self) -> bool:
        """Whether some of it is being passed on again."""
        return any(again.num_tokens for again in self._read)

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

    def since(self, position: int, chunk: int, judged: int = 0, settled: int = 0) -> Again:
        """What is to be passed on again from `position` on: at most `chunk` tokens of text at a time, then the newest
        round as it was; of one that is longer, the text alone: its client cuts the drafts, and sends them again. If the
        newest is none after `judged`, it has its verdict: then all is text, and ends at `settled`.

        Nothing, if the log does not reach back so far.
        """
        if self._newest is None or position < self.first:
            return Again(self, b"", 0, 0, 0, 1)
        newest, _ = self._newest
        if settled and newest.number <= judged:
            return self.text(position, settled, chunk)
        rest = beyond(newest, position)
        fits = rest is None or len(rest.tokens) <= chunk
        again = self.text(position, newest.position + (0 if fits else newest.num_text), chunk)
        if rest is not None and fits:
            again.last = msgspec.structs.replace(rest, continues=position < newest.position)
        return again

    def text(self, start: int, end: int, chunk: int) -> Again:
        """The positions start..end, as far as the log has them, in rounds of at most `chunk` tokens, none judged."""
        if self._newest is None or start < self.first:
            return Again(self, b"", 0, 0, 0, 1)
        newest = self._newest[0]
        step = min(chunk, CHUNK, max(MAX_STATES // max(self._row_bytes, 1), 1))
        again = Again(self, newest.session, newest.number, start, min(end, self.end), step)
        self._read.add(again)
        return again

    def drop(self) -> None:
        """Forget the rows; the log begins anew with what comes next."""
        end = self.end
        self._cut(self.first)
        self.first, self._newest = end, None

    def tokens(self, start: int, end: int) -> tuple[int, ...]:
        """The ids of the positions start..end."""
        return tuple(self._tokens[start - self.first : end - self.first])

    def rows(self, start: int, end: int) -> bytes:
        """The rows of the positions start..end."""
        size, parts = self._row_bytes, list[bytes]()
        first = max(bisect_right(self._pieces, start, key=itemgetter(0)) - 1, 0)
        for i in range(first, len(self._pieces)):
            at, rows = self._pieces[i]
            if at >= end:
                break
            parts.append(rows[max(start - at, 0) * size : (end - at) * size])
        return b"".join(parts)

    def newest_from(self, rest: Round) -> Result:
        """The newest round's part `rest`, as it was sent."""
        branches = self._branches if rest.num_drafts else b""
        return rest, self.rows(rest.position, self.end) + branches, self._newest[1] if self._newest else ()

    def _cut(self, position: int) -> None:
        """Forget the rows from `position` on, and all branches."""
        if self._read:  # seldom; to walk a WeakSet takes five calls even where it is empty
            for again in self._read:
                again.cut(position)
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


class Again(Iterator[Result]):
    """What is passed on again, read from the log as it is wanted: it takes no memory of its own.

    It ends where the log is overwritten meanwhile, for what comes there is passed on as it is computed.
    """

    def __init__(self, log: Sent, session: bytes, number: int, start: int, end: int, step: int) -> None:
        """The text start..end, `step` tokens at a time, as rounds of that session and number."""
        self.last: Round | None = None
        """The newest round, which follows, or what is wanted of it."""
        self._log = log
        self._session, self._number = session, number
        self._start = self._next = start
        self._end = end
        self._step = step

    @property
    def num_tokens(self) -> int:
        """How many are left."""
        return max(self._end - self._next, 0) + (len(self.last.tokens) if self.last else 0)

    def __next__(self) -> Result:
        low, high = self._next, min(self._next + self._step, self._end)
        if low < high:
            self._next = high
            tokens, continues = self._log.tokens(low, high), low > self._start
            round = Round(self._session, self._number, low, tokens, 0, judged=False, continues=continues)
            return round, self._log.rows(low, high), ()
        if self.last is None:
            raise StopIteration
        last, self.last = self.last, None
        return self._log.newest_from(last)

    def cut(self, position: int) -> None:
        """The log is overwritten from `position` on: before that, what is left is text."""
        end = self._end if self.last is None else self.last.end
        self._end, self.last = min(end, position), None


class SentStore:
    """The logs of all sessions, within a budget of bytes: over it, whoever has most loses the log that was not used for
    longest."""

    def __init__(self, max_bytes: int, is_new: Callable[[str], bool] = lambda _: False) -> None:
        """`is_new`: clients that have one share together."""
        self._max_bytes = max_bytes
        self._is_new = is_new
        self._logs: OrderedDict[bytes, Sent] = OrderedDict()
        self._clients: dict[bytes, str] = {}  # by session
        self.num_bytes = 0

    def open(self, session: bytes, client: str = "") -> Sent:
        """An empty log for a session of a client."""
        self.close(session)
        log = self._logs[session] = Sent()
        self._clients[session] = client
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
        self._clients.pop(session, None)
        if log is not None:
            self._drop(log)

    def _make_room(self) -> None:
        """Of one client those that are being read go last: a mend hangs on each."""
        while self.num_bytes > self._max_bytes:
            held = [
                Holding(session, self._clients[session], log.num_bytes, 0.0) for session, log in self._logs.items()
            ]
            logs = [self._logs[one.session] for one in of_the_greatest(held, self._is_new) if one.size]
            self._drop(min(logs, key=lambda log: log.is_read))  # of several, the one that was not used for longest

    def _drop(self, log: Sent) -> None:
        self.num_bytes -= log.num_bytes
        log.drop()
