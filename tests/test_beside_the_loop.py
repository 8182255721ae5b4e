"""What others make dear does not run on the event loop: planning, and reading what is pushed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.roster import Roster
from client.routing import Atlas
from peer import intake, packer
from swarm import rows
from tests import memory_swarm
from tests.models import greedy, load_whole

PROMPT = [5, 17, 3, 9]


def noting(function: Callable[..., Any], threads: set[int]) -> Callable[..., Any]:
    """The same function; the threads on which it is called are noted."""

    def called(*arguments: Any, **options: Any) -> Any:
        threads.add(threading.get_ident())
        return function(*arguments, **options)

    return called


@pytest.mark.parametrize(
    ("where", "name"),
    [(Roster, "plan"), (Atlas, "__init__"), (intake, "unpack"), (rows, "are_finite")],
    ids=["planning", "tables of all peers", "unpacking", "checking states"],
)
def test_what_others_make_dear_runs_in_another_thread(
    where: Any, name: str, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set[int]()
    monkeypatch.setattr(packer, "LEAST", 1)  # bytes, from which on states are packed

    async def run() -> None:
        async with memory_swarm.peers(target, ["0:2", "2:4"], tmp_path, uplink_mbit=0.1) as network:
            Roster(4)  # has a table of nobody, which takes no time
            monkeypatch.setattr(where, name, noting(getattr(where, name), threads))
            async with memory_swarm.client(network, target) as model:
                result = await model.generate(PROMPT, max_new_tokens=12)
                assert result.token_ids == greedy(load_whole(target), PROMPT, 12)

    asyncio.run(run())
    assert threads
    assert threading.get_ident() not in threads
