"""The chain that a generation sees: it verifies drafts, whatever happens to single peers.

When a peer of the open chain fails, another chain is planned without it and the text is prefilled there. With the rule
`match` the tokens come out the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from client.routing import Hop
from client.session import ChainSession
from client.target import Target
from swarm.errors import ChainLost, PeerError, PeerLost
from swarm.speculation.sampling import Sampling
from swarm.wire import Verdict

_ATTEMPTS = 6
_LONGEST_PAUSE = 2.0  # seconds between attempts


class Chain:
    """Opens a session when one is needed and replaces it when a hop fails."""

    def __init__(self, target: Target, sampling: Sampling, *, round_tokens: int, timeout: float) -> None:
        """`round_tokens`: the usual size of a round, for comparing chains; `timeout`: seconds that a wait may take."""
        self.reroutes = 0
        self._target = target
        self._sampling = sampling
        self._round_tokens = round_tokens
        self._timeout = timeout
        self._session: ChainSession | None = None
        self._failed: set[str] = set()
        self._bytes = [0, 0]  # sent and received by sessions that ended

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The present chain; empty before the first round."""
        return self._session.hops if self._session else ()

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes this client has sent and received for this generation."""
        sent, received = self._bytes
        if self._session:
            return sent + self._session.bytes_sent, received + self._session.bytes_received
        return sent, received

    async def prefill(self, tokens: Sequence[int]) -> None:
        """Send all of the text but its newest token ahead of the round that needs it. Raises ChainLost."""
        with contextlib.suppress(PeerError):  # the round itself will plan another chain
            async with self._session_at_hand() as session:
                await session.prefill(tokens)

    async def verify(self, tokens: Sequence[int], drafts: Sequence[int]) -> Verdict:
        """The verdict on `drafts` after the text `tokens`. Raises ChainLost, or PeerError when all attempts failed."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(PeerError),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.05, max=_LONGEST_PAUSE),
            reraise=True,
        )
        return await retrying(self._verify_once, tokens, drafts)

    async def close(self) -> None:
        """End the open session, if any."""
        if self._session is not None:
            sent, received = self.traffic
            self._bytes = [sent, received]
            await self._session.close()
            self._session = None

    async def _verify_once(self, tokens: Sequence[int], drafts: Sequence[int]) -> Verdict:
        async with self._session_at_hand() as session:
            verdict = await session.verify(tokens, drafts)
            if verdict.tokens[-1] >= self._target.info.vocab_size:
                raise PeerLost(session.hops[-1].contact.peer_id, "its verdict names a token that does not exist")
            return verdict

    @contextlib.asynccontextmanager
    async def _session_at_hand(self) -> AsyncIterator[ChainSession]:
        """The open session, or a new one; a failure in its use ends it and rules the culprit out."""
        try:
            if self._session is None:
                self._session = await self._open()
            yield self._session
        except PeerError as error:
            self._failed.add(error.peer_id)
            self.reroutes += self._session is not None
            await self.close()
            raise

    async def _open(self) -> ChainSession:
        try:
            hops = await self._plan()
        except ChainLost:
            await self._target.refresh()  # somebody may have come
            hops = await self._plan()
        return await ChainSession.open(
            self._target.transport, hops, self._target.fingerprint, self._sampling, self._timeout
        )

    async def _plan(self) -> list[Hop]:
        return await self._target.plan(tokens=self._round_tokens, excluded=self._failed)
