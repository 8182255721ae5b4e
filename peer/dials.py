"""How many dials to one host are under way: clients name the peers, and each dial is traffic that the host gets.

Its law: where more want to be dialled than may be, the client with fewest dials under way goes first, where all
newcomers (see `peer.standing`) count as one. A dial is anybody's who waits for it, whoever named the peer first.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field

from peer.room import NEWCOMERS
from swarm.circuits import host_of
from swarm.wire import Contact

PER_HOST = 8
_HERE = ("ip4/127.", "ip6/::1")
_MAX_REACHED = 256


@dataclass(slots=True, eq=False)
class _Dial:
    """One, under way or not yet."""

    clients: Callable[[], Collection[str]]
    hosts: frozenset[str]
    may_begin: asyncio.Event = field(default_factory=asyncio.Event)
    client: str = ""
    """For whom it is, once it is under way."""


class Dials:
    """Those under way; more than so many to one host wait, unless the peer was reached before."""

    def __init__(self, is_new: Callable[[str], bool]) -> None:
        """`is_new`: whether a client is a newcomer."""
        self._is_new = is_new
        self._under_way: list[_Dial] = []
        self._waiting: list[_Dial] = []
        self._reached: OrderedDict[str, Contact] = OrderedDict()  # by peer: where those are that were reached last

    @contextlib.asynccontextmanager
    async def turn(self, contact: Contact, clients: Callable[[], Collection[str]]) -> AsyncIterator[None]:
        """A block in which all addresses of a peer may be dialled at once, for some clients, at least one."""
        was_reached = self._reached.get(contact.peer_id) == contact
        dial = _Dial(clients, frozenset() if was_reached else frozenset(hosts_of(contact)))
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
        accounts = Counter(self._account(dial.client) for dial in self._under_way)

        def under_way(client: str) -> tuple[int, int]:
            return accounts[self._account(client)], own[client]

        first = [(min(dial.clients(), key=under_way), dial) for dial in self._waiting]
        for client, dial in sorted(first, key=lambda one: under_way(one[0])):  # of several, the first
            hosts = Counter(itertools.chain.from_iterable(one.hosts for one in self._under_way))
            if all(hosts[host] < PER_HOST for host in dial.hosts):
                self._waiting.remove(dial)
                self._under_way.append(dial)
                dial.client = client
                dial.may_begin.set()

    def _account(self, client: str) -> str:
        return NEWCOMERS if self._is_new(client) else client

    def note_failed(self, contact: Contact) -> None:
        """A dial has failed."""
        if self._reached.get(contact.peer_id) == contact:
            del self._reached[contact.peer_id]

    def note_reached(self, contact: Contact) -> None:
        """A dial has succeeded."""
        self._reached[contact.peer_id] = contact
        self._reached.move_to_end(contact.peer_id)
        if len(self._reached) > _MAX_REACHED:
            self._reached.popitem(last=False)


def hosts_of(contact: Contact) -> set[str]:
    """The hosts to which dialling a peer sends something; of a peer behind a relay, the relay's. This one is none."""
    return {host for host in map(host_of, contact.maddrs) if not host.startswith(_HERE)}
