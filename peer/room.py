"""Which sessions give way when there is no room. Pure.

Its law: room is shared as the stage's time is, by client, and all newcomers (see `peer.standing`) are one. Who would
have most of it, with what he asks for, gets no more; else, whoever has most gives way, with the session that was used
longest ago. One that nobody has used for a while gives way to anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

IDLE = 60.0  # seconds without a round
NEWCOMERS = ""
"""Stands for all of them."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a session has of the room: bytes, say, or one place."""

    session: bytes
    client: str
    size: int
    unused: float
    """Seconds since it was used."""


def giving_way(
    others: Iterable[Holding], client: str, own: int, lacking: int, is_new: Callable[[str], bool]
) -> list[bytes] | None:
    """The sessions among `others` that end so that `client` gets what is `lacking`; None if he has to do without it.

    `own`: what the session that asks for it would then have.
    """
    left, chosen = list(others), list[bytes]()
    while lacking > 0:
        found = _next(left, client, own, is_new)
        if found is None:
            return None
        left.remove(found)
        chosen.append(found.session)
        lacking -= found.size
    return chosen


def _next(left: list[Holding], client: str, own: int, is_new: Callable[[str], bool]) -> Holding | None:
    left = [one for one in left if one.size]
    idle = [one for one in left if one.unused >= IDLE]
    return max(idle or of_the_greatest(left, is_new, client, own), key=lambda one: one.unused, default=None)


def of_the_greatest(
    left: list[Holding], is_new: Callable[[str], bool], client: str | None = None, own: int = 0
) -> list[Holding]:
    """The sessions of the client who has most, of all such clients; none, if he who asks for more, and would have `own`
    of it in one session, is one."""
    clients, accounts = Counter[str](), Counter[str]()
    if client is not None:
        clients[client] = own
    for holding in left:
        clients[holding.client] += holding.size
    account = {one: NEWCOMERS if is_new(one) else one for one in clients}
    for one, size in clients.items():
        accounts[account[one]] += size
    ((most, _),) = accounts.most_common(1)
    largest = max(size for one, size in clients.items() if account[one] == most)
    greatest = {one for one, size in clients.items() if account[one] == most and size == largest}
    return [] if client in greatest else [holding for holding in left if holding.client in greatest]
