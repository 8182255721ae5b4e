"""Which hops made which part of a text, over all mends. Pure."""

from __future__ import annotations

from client.routing import Hop, Kind


class History:
    """Of one generation's chain; positions are those of the text."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, tuple[Hop, ...]]] = []  # from which position on the chain was which
        self._session: object = None
        self.opened_at = 0
        """Where the present session was opened: everything before was given to its hops at once."""

    def note(self, session: object, hops: tuple[Hop, ...], position: int) -> None:
        """From this position on the chain is `hops`, in that session; in a new one, they are given everything anew."""
        position = position if self._parts else 0
        if session is not self._session:
            self._session, self.opened_at = session, position
        if not self._parts or self._parts[-1][1] != hops:
            self._parts.append((position, hops))

    @property
    def kinds(self) -> set[Kind]:
        """How any of the hops have computed."""
        return {hop.kind for _, hops in self._parts for hop in hops}

    def at(self, position: int) -> tuple[Hop, ...]:
        """The hops that made this position."""
        return next((hops for start, hops in reversed(self._parts) if start <= position), ())

    def since(self, hop: Hop) -> int:
        """Up to which position a hop of the present chain was given everything at once, when it came into it."""
        came: int | None = None
        for position, hops in self._parts:
            if hop not in hops:
                came = None
            elif came is None:
                came = position
        return max(self.opened_at, came or 0)
