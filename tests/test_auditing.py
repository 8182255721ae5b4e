"""Audits over whole swarms in memory: liars are found and left out, and nobody else is."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.liar import Lie, another_token, noise, silence
from client.api import AsyncSwarmModel
from client.result import Result
from peer import node
from swarm.model.speed import Speed
from tests import memory_swarm
from tests.models import greedy, load_whole, save_llama

PROMPT = [5, 17, 3, 9, 200, 41]
TWICE = ["0:2", "2:4"] * 2
THRICE = ["0:2", "2:4"] * 3


@contextlib.asynccontextmanager
async def auditing(
    target: Path,
    folder: Path,
    spans: list[str],
    lies: dict[str, Lie],
    audit: float = 1.0,
    wait_floor: float = 1.0,
    **options: Any,
) -> AsyncIterator[AsyncSwarmModel]:
    """A client that audits, of peers of which some may lie."""
    async with (
        memory_swarm.peers(target, spans, folder, lies=lies, **options) as network,
        memory_swarm.client(network, target, draft="none", audit=audit, wait_floor=wait_floor) as model,
    ):
        yield model


def exact(target: Path, result: Result) -> bool:
    return result.token_ids == greedy(load_whole(target), PROMPT, len(result.token_ids))


@pytest.mark.parametrize("spans", [TWICE, ["0:4", "0:4"], ["0:2", "2:4", "0:4"], ["0:3", "3:4", "0:1", "1:4"] * 2])
def test_honest_peers_are_audited_and_believed(
    target: Path, tmp_path: Path, spans: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # all are equally fast: no chain takes a part of a peer of all layers, and so leaves too few for the audit
    monkeypatch.setattr(node.speed, "measure", lambda _: Speed(0.01, 0.001))

    async def run() -> None:
        async with auditing(target, tmp_path, spans, {}) as model:
            result = await model.generate(PROMPT, max_new_tokens=40, window=4)
        assert result.audits >= 1
        assert result.suspects == []
        assert exact(target, result)

    asyncio.run(run())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 3}], ids=str
)
def test_honest_peers_are_believed_in_every_dtype_and_with_every_sampling(
    target: Path, tmp_path: Path, dtype: str, sampling: dict[str, Any]
) -> None:
    async def run() -> None:
        async with auditing(target, tmp_path, ["0:2", "2:4", "0:2", "2:4"], {}, dtype=dtype) as model:
            result = await model.generate(PROMPT, max_new_tokens=40, **sampling)
        assert (result.audits >= 1, result.audits_skipped, result.suspects) == (True, 0, [])

    asyncio.run(run())


def test_rounding_errors_that_grow_over_many_layers_are_no_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The auditors are given many tokens at once that came one by one, and round otherwise."""
    rounds = itertools.count(1)
    monkeypatch.setattr("client.generation._is_drawn", lambda _: next(rounds) % 20 == 0)
    deep = save_llama(tmp_path / "deep", layers=32, hidden=64)

    async def run() -> None:
        spans = ["0:8", "8:16", "16:24", "24:32"] * 2
        async with auditing(deep, tmp_path, spans, {}, dtype="bfloat16") as model:
            result = await model.generate(PROMPT, max_new_tokens=60, temperature=2.0, seed=1)
        assert (result.audits >= 1, result.audits_skipped, result.suspects) == (True, 0, [])

    asyncio.run(run())


@pytest.mark.parametrize("hop", [0, 1])
def test_a_peer_that_lies_is_left_out_and_reported(target: Path, tmp_path: Path, hop: int) -> None:
    lie = [noise(0.5), another_token][hop]

    async def run() -> None:
        lies: dict[str, Lie] = {}
        async with auditing(target, tmp_path, TWICE, lies) as model:
            honest = await model.generate(PROMPT, max_new_tokens=8)
            liar = honest.chain[hop][0]
            lies[liar] = lie
            deceived = await model.generate(PROMPT, max_new_tokens=60)
            assert [suspect.peer_id for suspect in deceived.suspects] == [liar]
            assert len(PROMPT) <= deceived.suspects[0].position + 1 < len(PROMPT) + 60
            assert liar not in [peer_id for peer_id, _ in deceived.chain]
            after = await model.generate(PROMPT, max_new_tokens=16)
            assert liar not in [peer_id for peer_id, _ in after.chain]
            assert exact(target, after)

    asyncio.run(run())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_lie_that_is_no_larger_than_some_rounding_errors_is_found_where_it_is_everywhere(
    target: Path, tmp_path: Path, dtype: str
) -> None:
    """Also if each audit has but a few new positions to compare."""

    async def run() -> None:
        lies: dict[str, Lie] = {}
        async with auditing(target, tmp_path, TWICE, lies, dtype=dtype) as model:
            liar = (await model.generate(PROMPT, max_new_tokens=8)).chain[0][0]
            lies[liar] = noise(0.5)
            deceived = await model.generate(PROMPT, max_new_tokens=60)
            assert [suspect.peer_id for suspect in deceived.suspects] == [liar]

    asyncio.run(run())


def test_no_lie_that_changes_the_text_goes_unnoticed_however_late_it_comes(target: Path, tmp_path: Path) -> None:
    """The last round is audited too, before the result is there."""

    async def run() -> None:
        lies: dict[str, Lie] = {}
        async with auditing(target, tmp_path, TWICE, lies) as model:
            honest = await model.generate(PROMPT, max_new_tokens=20)
            liar = honest.chain[-1][0]
            generation = model.stream(PROMPT, max_new_tokens=20)
            async for _ in generation:
                if len(generation.result.token_ids) >= 17:
                    lies[liar] = another_token
            assert generation.result.token_ids != honest.token_ids
            assert [suspect.peer_id for suspect in generation.result.suspects] == [liar]

    asyncio.run(run())


def test_errors_of_rounding_are_no_lies(target: Path, tmp_path: Path) -> None:
    async def run() -> None:
        lies: dict[str, Lie] = {}
        async with auditing(target, tmp_path, TWICE, lies) as model:
            honest = await model.generate(PROMPT, max_new_tokens=8)
            lies[honest.chain[0][0]] = noise(1e-6)
            assert (await model.generate(PROMPT, max_new_tokens=40)).suspects == []

    asyncio.run(run())


@pytest.mark.parametrize(("hop", "dtype"), [(0, "float32"), (0, "bfloat16"), (1, "float32")])
def test_an_auditor_that_lies_is_found_out_by_a_third_peer(
    target: Path, tmp_path: Path, hop: int, dtype: str
) -> None:
    lie = [noise(0.5), another_token][hop]

    async def run() -> None:
        lies: dict[str, Lie] = {}
        async with auditing(target, tmp_path, THRICE, lies, dtype=dtype) as model:
            chain = [peer_id for peer_id, _ in (await model.generate(PROMPT, max_new_tokens=8)).chain]
            others = [
                peer_id
                for peer_id, peer in model.target.roster.peers.items()
                if peer.start == 2 * hop and peer_id not in chain
            ]
            lies[others[0]] = lie
            result = await model.generate(PROMPT, max_new_tokens=60)
            assert {suspect.peer_id for suspect in result.suspects} <= {others[0]}
            assert [peer_id for peer_id, _ in result.chain] == chain
            assert dtype != "float32" or exact(target, result)

    asyncio.run(run())


def test_where_nobody_else_serves_the_layers_audits_are_skipped_and_counted(target: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with auditing(target, tmp_path, ["0:2", "2:4"], {}) as model:
            result = await model.generate(PROMPT, max_new_tokens=20)
        assert result.audits == 0
        assert result.audits_skipped > 0
        assert exact(target, result)

    asyncio.run(run())


def test_without_audits_nobody_is_asked_to_be_a_witness(target: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with auditing(target, tmp_path, TWICE, {}, audit=0.0) as model:
            generation = model.stream(PROMPT, max_new_tokens=8)
            assert generation._terms.witness is None
            async for _ in generation:
                pass
            assert (generation.result.audits, generation.result.audits_skipped) == (0, 0)

    asyncio.run(run())


@pytest.mark.parametrize("hop", [0, 1])
def test_peers_that_keep_rounds_to_themselves_hold_up_no_audit_for_long(
    target: Path, tmp_path: Path, hop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is silent is left; and where nobody else is left to audit, the text is not."""
    monkeypatch.setattr("client.generation._AUDIT_TIMEOUT", 1.0)

    async def run() -> None:
        lies: dict[str, Lie] = {}
        async with auditing(target, tmp_path, TWICE, lies, wait_floor=0.2) as model:
            liar = (await model.generate(PROMPT, max_new_tokens=8)).chain[hop][0]
            lies[liar] = silence
            result = await model.generate(PROMPT, max_new_tokens=60)
            assert exact(target, result)
            assert liar not in [peer_id for peer_id, _ in result.chain]
            assert result.audits_skipped >= 1

    asyncio.run(run())


def test_an_auditor_that_hangs_does_not_hold_the_finished_text(target: Path, tmp_path: Path) -> None:
    """As long as it gets no answer for what the chain itself does at once: the audit is counted as skipped."""

    async def run() -> float:
        lies: dict[str, Lie] = {}
        async with auditing(target, tmp_path, TWICE, lies, wait_floor=0.2) as model:
            chain = [peer_id for peer_id, _ in (await model.generate(PROMPT, max_new_tokens=8)).chain]
            lies |= dict.fromkeys(model.target.roster.peers.keys() - {*chain}, silence)
            started = time.monotonic()
            result = await model.generate(PROMPT, max_new_tokens=20)
            assert exact(target, result)
            assert result.audits_skipped >= 1
            return time.monotonic() - started

    assert asyncio.run(run()) < 5.0
