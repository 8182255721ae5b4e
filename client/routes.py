"""Chains through the peers that one generation may use: the best one, and those without certain peers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial

from client.routing import Hop, Kind
from client.target import Target
from swarm.errors import ChainLost


class Routes:
    """Plans them by what is known of the peers; where that gives none, it looks around first."""

    def __init__(
        self,
        target: Target,
        *,
        round_tokens: int,
        avoid: Callable[[], Collection[str]] = frozenset,
        kinds: Collection[Kind] | None = None,
    ) -> None:
        """`avoid`: peers not to be used; `kinds`: none but those that compute so."""
        self.round_tokens = round_tokens
        """The usual size of a round, by which chains are compared."""
        self._target = target
        self._avoid = avoid
        self._kinds = kinds

    async def best(self) -> list[Hop]:
        """The fastest chain. Raises ChainLost or LookupFailed."""
        return await self._insist(self._best)

    async def filled(self, hops: Sequence[Hop], gone: Collection[str]) -> list[Hop]:
        """The chain with others in the place of those that are gone. Raises ChainLost or LookupFailed."""
        return await self._insist(partial(self.known, hops, gone))

    async def known(self, hops: Sequence[Hop], gone: Collection[str], excluded: Collection[str] = ()) -> list[Hop]:
        """The same, without looking around, and without the peers `excluded`. Raises ChainLost."""
        avoided = {*self._avoid(), *excluded}
        return await self._target.fill(hops, gone, tokens=self.round_tokens, excluded=avoided, kinds=self._kinds)

    async def faster(self, hops: Sequence[Hop], seconds: float, text: int, excluded: Collection[str]) -> list[Hop]:
        """A chain for a text of `text` tokens that is at `hops`, by what is known: one that promises to take much less
        than `seconds`, without the peers `excluded`. Raises ChainLost."""
        avoided = {*self._avoid(), *excluded}
        return await self._target.faster(
            hops, seconds, text=text, tokens=self.round_tokens, excluded=avoided, kinds=self._kinds
        )

    async def _best(self) -> list[Hop]:
        return await self._target.plan(tokens=self.round_tokens, excluded=self._avoid(), kinds=self._kinds)

    async def _insist(self, plan: Callable[[], Awaitable[list[Hop]]]) -> list[Hop]:
        """A plan, if need be after looking around."""
        try:
            return await plan()
        except ChainLost:
            await self._look_around()
            return await plan()

    async def _look_around(self) -> None:
        """Somebody may have come, or come back. Raises LookupFailed."""
        has_chain = partial(
            self._target.has_chain, tokens=self.round_tokens, excluded=self._avoid(), kinds=self._kinds
        )
        await self._target.refresh(silent_too=True, is_enough=has_chain)
