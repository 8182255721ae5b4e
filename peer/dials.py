"""How many dials to one host are under way: clients name the peers, and each dial is traffic that the host gets.

Its law: where more want to be dialled than may be, the client with fewest dials under way there goes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from swarm.circuits import host_of
from swarm.wire import Contact

PER_HOST = 8
_HERE = ("ip4/127.", "ip6/::1")
_MAX_REACHED = 256


@dataclass(slots=True, eq=False)
class _Dial:
    """One, under way or not yet."""

    client: str
    hosts: frozenset[str]
    may_begin: asyncio.Event = field(default_factory=asyncio.Event)


class Dials:
    """Those under way; more than so many to one host wait, unless the peer was reached before."""

    def __init__(self) -> None:
        self._under_way: list[_Dial] = []
        self._waiting: list[_Dial] = []
        self._reached: OrderedDict[Contact, None] = OrderedDict()  # those that were reached last

    @contextlib.asynccontextmanager
    async def turn(self, contact: Contact, client: str = "") -> AsyncIterator[None]:
        """A block in which all addresses of a peer may be dialled at once, for a client."""
        dial = _Dial(client, frozenset() if contact in self._reached else frozenset(hosts_of(contact)))
        self._waiting.append(dial)
        self._go_on()
        try:
            await dial.may_begin.wait()
            yield
        finally:
            for dials in (self._waiting, self._under_way):
                if dial in dials:
                    dials.remove(dial)
            self._go_on()

    def _go_on(self) -> None:
        """Let those begin who may."""
        own = Counter(dial.client for dial in self._under_way)
        for dial in sorted(self._waiting, key=lambda one: own[one.client]):  # of several, the first
            hosts = Counter(itertools.chain.from_iterable(one.hosts for one in self._under_way))
            if all(hosts[host] < PER_HOST for host in dial.hosts):
                self._waiting.remove(dial)
                self._under_way.append(dial)
                dial.may_begin.set()

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
    """The hosts to which dialling a peer sends something; of a peer behind a relay, the relay's. This one is none."""
    return {host for host in map(host_of, contact.maddrs) if not host.startswith(_HERE)}
