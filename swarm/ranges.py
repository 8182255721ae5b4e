"""From which part of the internet nodes are reached: places near a key are free for whoever makes keys for long enough,
addresses in many networks are not. Pure, but for `Ranges`, which remembers."""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

UNKNOWN = ""
"""Of all nodes that are not connected, or through something else than an IP address."""
_IP4, _IP6 = 4, 41  # the codes of multiaddrs
_CIRCUIT = b"\xa2\x02"  # that of /p2p-circuit
_PARTS = {_IP4: 2, _IP6: 4}
"""Bytes of an address that name its network: /16 and /32, as Bitcoin's nodes group their peers."""
_MOST = 4096  # nodes that are remembered


def range_of(maddr: bytes) -> str:
    """The network of an address, a multiaddr in its binary form; through a relay, anybody is anywhere."""
    size = _PARTS.get(maddr[0]) if maddr and _CIRCUIT not in maddr else None
    return UNKNOWN if size is None or len(maddr) < 1 + size else maddr[: 1 + size].hex()


def diverse(nodes: Iterable[T], range_of: Callable[[T], str], count: int, share: int) -> list[T]:
    """Of these, the first `count`, but no more than `share` of one range."""
    taken, found = Counter[str](), list[T]()
    for node in nodes:
        if len(found) == count:
            break
        where = range_of(node)
        if taken[where] < share:
            taken[where] += 1
            found.append(node)
    return found


def filled(nodes: Sequence[T], chosen: Sequence[T], count: int) -> list[T]:
    """The chosen ones, and the first of the others: as many as `count` together."""
    taken = set(chosen)
    others = itertools.islice((node for node in nodes if node not in taken), count - len(chosen))
    return [*chosen, *others]


class Ranges(Generic[T]):
    """By node, where it was last reached."""

    def __init__(self) -> None:
        self._known: OrderedDict[T, str] = OrderedDict()

    def note(self, node: T, where: str) -> None:
        """It is connected from there."""
        self._known[node] = where
        self._known.move_to_end(node)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)

    def of(self, node: T) -> str:
        """UNKNOWN, where that is so."""
        return self._known.get(node, UNKNOWN)

    def __contains__(self, node: T) -> bool:
        return node in self._known
