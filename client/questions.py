"""What a client asks the peers of its session, and their answers: how far they got, and what they were given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, MutableMapping, Sequence

from client.news import News
from client.routing import Hop
from client.streams import HopStreams
from swarm.errors import PeerError, PeerLost, PeerRefused
from swarm.tasks import end, owned
from swarm.wire import MAX_RECALLED, Ask, Progress, Recall, Recalled

_PREPARING = 0  # the nonce of questions to peers that are prepared; surveys begin with 1


class Questions:
    """Answers are kept by peer, and only those to the newest question of a kind."""

    def __init__(
        self, session_id: bytes, streams: HopStreams, news: News, faults: MutableMapping[str, PeerError]
    ) -> None:
        """`faults`: by peer, what is wrong with it; nothing is expected of such a one."""
        self.reports: dict[str, Progress] = {}
        """By peer: its answer to the last survey."""
        self._id = session_id
        self._streams = streams
        self._news = news
        self._faults = faults
        self._surveys = self._recalls = 0  # apart: either may go on beside the other
        self._recalled: dict[str, tuple[int, bytes]] = {}
        """By peer: the number of its last answer to a Recall, and the answer."""
        self._prepared: dict[str, int] = {}
        """By peer that is no hop yet: positions of the text that it holds."""

    def note(self, peer_id: str, answer: Progress | Recalled) -> None:
        """Keep an answer."""
        match answer:
            case Progress(nonce=nonce, held=held) if nonce == _PREPARING:
                self._prepared[peer_id] = held
            case Progress(nonce=nonce) if nonce == self._surveys:
                self.reports[peer_id] = answer
            case Recalled(nonce=nonce, sketches=sketches):
                self._recalled[peer_id] = (nonce, sketches)

    def forget_prepared(self, peer_id: str) -> None:
        """It has left the session."""
        self._prepared.pop(peer_id, None)

    async def survey(
        self, hops: Sequence[Hop], held: int, seconds: float, *, is_over: Callable[[], bool] = lambda: False
    ) -> dict[str, Progress]:
        """How far the session got at each of these hops that answers within `seconds`; one with a fault is not asked,
        unless it has but refused something: then the session goes on there.

        A hop answers when it has run the text up to position `held`; no answer is waited for once `is_over`.
        """
        self._surveys += 1
        self.reports.clear()
        reachable = self._streams.peer_ids - self._faults.keys() | self._refusing()
        asked = [peer_id for hop in hops if (peer_id := hop.contact.peer_id) in reachable]
        message = Ask(self._id, self._surveys, held)
        questions = [owned(self._ask(peer_id, message), f"asking {peer_id}") for peer_id in asked]
        try:
            await self._news.until(
                lambda: is_over() or self.reports.keys() | (self._faults.keys() - self._refusing()) >= set(asked),
                seconds,
            )
        finally:
            await end(*questions)
        return dict(self.reports)

    async def await_prepared(self, hops: Sequence[Hop], held: int, seconds: float) -> bool:
        """Whether these hold the text up to position `held`, as soon as that is so, or after `seconds`. Raises what is
        wrong with one."""
        names = [hop.contact.peer_id for hop in hops]
        for name in names:
            await self._streams.send(name, Ask(self._id, _PREPARING, held))

        def are_prepared() -> bool:
            return all(self._prepared.get(name, -1) >= held for name in names)

        await self._news.until(lambda: are_prepared() or not self._faults.keys().isdisjoint(names), seconds)
        for name in names:
            if name in self._faults:
                raise self._faults[name]
        return are_prepared()

    async def recall(self, hops: Sequence[Hop], start: int, end: int, seconds: float) -> dict[int, bytes]:
        """By first layer of each of these hops, the sketches of what it was given at the positions start..end.

        Those that do not answer within `seconds` are left out.
        """
        names = [hop.contact.peer_id for hop in hops]
        parts = [
            await self._recall(names, low, min(low + MAX_RECALLED, end), seconds)
            for low in range(start, end, MAX_RECALLED)
        ]
        return {
            hop.span.start: b"".join(part[peer] for part in parts)
            for hop in hops
            if all((peer := hop.contact.peer_id) in part for part in parts)
        }

    async def _recall(self, names: Sequence[str], start: int, end: int, seconds: float) -> dict[str, bytes]:
        self._recalls += 1
        nonce = self._recalls
        for name in names:
            with contextlib.suppress(PeerLost):
                await self._streams.send(name, Recall(self._id, nonce, start, end))

        def answers() -> dict[str, bytes]:
            return {peer: data for peer, (number, data) in self._recalled.items() if number == nonce}

        def is_done() -> bool:
            return all(
                name in answers() or name in self._faults or name not in self._streams.peer_ids for name in names
            )

        await self._news.until(is_done, seconds)
        return answers()

    def _refusing(self) -> set[str]:
        """Those with a session that have refused a message of it."""
        return {
            peer_id
            for peer_id, error in self._faults.items()
            if isinstance(error, PeerRefused) and error.why == "unlawful" and peer_id in self._streams.peer_ids
        }

    async def _ask(self, peer_id: str, message: Ask) -> None:
        try:
            await self._streams.send(peer_id, message)
        except PeerLost as error:
            self._faults.setdefault(error.peer_id, error)
