"""How many messages of one node are read: whatever a message is, it takes the event loop some time."""

from __future__ import annotations

import asyncio

from swarm.complaints import Complaints
from swarm.rates import Rates
from swarm.wire import AnyMessage, Proofs, Round, Views

MESSAGES = 200
"""That are read at once of a node without a session, and then in SECONDS; as many more for each session of it."""
SECONDS = 2.0
_OF_ROUNDS = 10  # times as many: a round pays by the stage's time, and a fast chain runs hundreds a second
_WHOLE = 1 << 20  # what all the messages of a node without a session cost


def _now() -> float:
    return asyncio.get_running_loop().time()


class Quota:
    """Owns what each node has brought lately."""

    def __init__(self, complaints: Complaints) -> None:
        """`complaints` hears who has to wait."""
        self._complaints = complaints
        self._rates = Rates(_WHOLE, _now, SECONDS)

    def note(self, peer_id: str, message: AnyMessage, sessions: int) -> None:
        """A node that has so many sessions has brought a message."""
        times = _OF_ROUNDS if sessions and isinstance(message, Round | Proofs | Views) else 1
        self._rates.note(peer_id, _WHOLE // (MESSAGES * (1 + sessions) * times))

    async def wait(self, peer_id: str) -> None:
        """Until one more message of a node may be read."""
        if seconds := self._rates.seconds_until(peer_id):
            self._complaints.about("pace", peer_id, "it brings more messages than are read: they wait")
            await asyncio.sleep(seconds)
