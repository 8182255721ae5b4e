"""How many dials to one host are under way: clients name the peers, and each dial is traffic that the host gets."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator

from swarm.circuits import host_of
from swarm.wire import Contact

PER_HOST = 8
_MAX_REACHED = 256


class Dials:
    """Those under way; more than so many to one host wait, unless the peer was reached there before, and nobody else
    is meant: all its addresses are of one host."""

    def __init__(self) -> None:
        self._under_way = Counter[str]()
        self._reached: OrderedDict[Contact, None] = OrderedDict()  # those that were reached last
        self._ended = asyncio.Event()

    @contextlib.asynccontextmanager
    async def turn(self, contact: Contact) -> AsyncIterator[None]:
        """A block in which all addresses of a peer may be dialled at once."""
        hosts = hosts_of(contact)
        is_there = contact in self._reached and len(hosts) == 1
        while not is_there and any(self._under_way[host] >= PER_HOST for host in hosts):
            self._ended.clear()
            await self._ended.wait()
        self._under_way.update(hosts)
        try:
            yield
        finally:
            self._under_way.subtract(hosts)
            self._under_way += Counter()
            self._ended.set()

    def note_failed(self, contact: Contact) -> None:
        """A dial has failed."""
        self._reached.pop(contact, None)

    def note_reached(self, contact: Contact) -> None:
        """A dial has succeeded."""
        self._reached[contact] = None
        self._reached.move_to_end(contact)
        if len(self._reached) > _MAX_REACHED:
            self._reached.popitem(last=False)


def hosts_of(contact: Contact) -> set[str]:
    """The hosts to which dialling a peer sends something; of a peer behind a relay, the relay's."""
    return {host_of(maddr) for maddr in contact.maddrs}
