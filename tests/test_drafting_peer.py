"""Generations at a peer that drafts, over whole swarms in memory: the text of a client's own, and nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.chaos.fleet import start_liar
from benchmarks.chaos.liar import Lie
from client.api import AsyncSwarmModel
from client.generation import Generation
from client.result import Result
from client.shortest import shortest
from specswarm.drafting import DraftingService
from specswarm.processes import LOOPBACK, Place, running_swarm
from swarm.errors import PeerLost, UsageError
from swarm.identity import Identity
from swarm.memory import MemoryNetwork, MemoryStream
from swarm.model.speed import Speed
from swarm.speculation.sampling import Sampling
from swarm.transport import Stream
from swarm.wire import (
    DRAFT_PROTOCOL,
    AnyMessage,
    Ask,
    Contact,
    Generate,
    Generated,
    Ping,
    Pong,
    Refused,
)
from tests import memory_swarm
from tests.models import VOCAB, greedy, load_whole

PROMPT = [5, 17, 3, 9, 200, 41]
SPANS = ["0:2", "2:4", "0:4"]


async def events(generation: Generation, at: int, act: Callable[[Result], None]) -> Result:
    """The whole generation; `act` is called when so many tokens are there."""
    waiting = True
    async for _ in generation:
        if waiting and len(generation.result.token_ids) >= at:
            waiting = False
            act(generation.result)
    assert not waiting
    return generation.result


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": 0},
        {"window": "awc"},
        {"window": 5, "tree": False, "in_flight": 1},
        {"temperature": 0.9, "top_p": 0.9, "seed": 3},
        {"temperature": 0.9, "seed": 3, "acceptance": "rejection", "evidence_k": 8, "window": 4},
    ],
    ids=str,
)
def test_text_from_a_peer_is_that_of_the_client_itself(
    target: Path, draft: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    async def run() -> None:
        async with memory_swarm.peers(target, SPANS[:2], tmp_path, drafts={1: draft}) as network:
            async with memory_swarm.client(network, target, draft="none", draft_at="peer") as model:
                there = await model.generate(PROMPT, max_new_tokens=40, **options)
            async with memory_swarm.client(network, target, draft=str(draft), draft_at="client") as model:
                here = await model.generate(PROMPT, max_new_tokens=40, **options)
        assert there.token_ids == here.token_ids
        assert there.text == here.text
        assert there.chain == here.chain
        assert (there.drafted_at, here.drafted_at) == (there.chain[1][0], None)
        assert (there.accepted > 0) == (options.get("window") != 0)
        assert len(there.trip_seconds) == len(there.compute_seconds) == there.rounds
        assert there.bytes_sent < here.bytes_sent

    asyncio.run(run())


def test_a_peer_judges_as_leniently_as_the_client_asks(target: Path, draft: Path, tmp_path: Path) -> None:
    async def run() -> None:
        options: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0.9, "seed": 3}
        async with (
            memory_swarm.peers(target, SPANS[:2], tmp_path, drafts={1: draft}) as network,
            memory_swarm.client(network, target, draft=str(draft), draft_at="peer") as model,
        ):
            exact = await model.generate(PROMPT, **options)
            texts = [
                await model.generate(PROMPT, **options, acceptance="semantic", semantic=thresholds)
                for thresholds in ({"entropy": 0}, {"tau": 1, "entropy": 1, "difference": 1, "disagreement": 1})
            ]
        assert all(text.drafted_at for text in texts)
        assert texts[0].token_ids == exact.token_ids
        assert texts[1].token_ids != exact.token_ids

    asyncio.run(run())


def test_a_client_without_a_draft_finds_the_peer_by_itself(
    target: Path, draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarm.model.speed.measure", lambda _: Speed(0.01, 0.001))  # of a stage
    monkeypatch.setattr("swarm.drafting.model.measure", lambda _: Speed(0.0001, 0.0001))

    async def run() -> None:
        async with (
            memory_swarm.peers(target, SPANS[:2], tmp_path, drafts={0: draft}) as network,
            memory_swarm.client(network, target, draft="none") as model,
        ):
            while not all(peer.links for peer in model.target.roster.peers.values()):  # the directory tells no news
                await asyncio.sleep(0.05)
                await model.refresh()
            result = await model.generate(PROMPT, max_new_tokens=24)
        assert result.drafted_at == result.chain[0][0]
        assert result.token_ids == greedy(load_whole(target), PROMPT, 24)

    asyncio.run(run())


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "seed": 3}], ids=str)
def test_text_goes_on_here_when_the_peer_dies(
    target: Path, draft: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    async def run() -> None:
        async with memory_swarm.peers(target, SPANS, tmp_path, drafts={2: draft}) as network:
            async with memory_swarm.client(network, target, draft="ngram", draft_at="client") as model:
                expected = await model.generate(PROMPT, max_new_tokens=60, **options)
            async with memory_swarm.client(network, target, draft="ngram", draft_at="peer") as model:

                def kill(result: Result) -> None:
                    assert result.drafted_at is not None
                    network.leave(result.drafted_at)

                result = await events(model.stream(PROMPT, max_new_tokens=60, **options), 20, kill)
        assert result.token_ids == expected.token_ids
        assert result.drafted_at is None
        assert len(result.chain) == 2

    asyncio.run(run())


def test_chains_are_never_planned_on_the_event_loop(
    target: Path, draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planners: list[int] = []

    def noted(*arguments: Any) -> Any:
        planners.append(threading.get_ident())
        return shortest(*arguments)

    monkeypatch.setattr("client.routing.shortest", noted)

    async def run() -> Result:
        async with (
            memory_swarm.peers(target, ["0:2", "2:4", "2:4"], tmp_path, drafts={0: draft}) as network,
            memory_swarm.client(network, target, draft="ngram") as model,
        ):
            await model.generate(PROMPT, max_new_tokens=8)  # of the places to draft at, one is chosen
            return await events(
                model.stream(PROMPT, max_new_tokens=60), 20, lambda result: network.leave(result.chain[1][0])
            )

    assert asyncio.run(run()).reroutes == 1
    assert len(planners) > 3
    assert threading.get_ident() not in planners


def silent(message: AnyMessage) -> AnyMessage | None:
    return None if isinstance(message, Generated | Pong | Refused) else message


def idle(message: AnyMessage) -> AnyMessage | None:
    return None if isinstance(message, Generated | Refused) else message


def senseless(message: AnyMessage) -> AnyMessage | None:
    return Ping(3) if isinstance(message, Generated) else message


@pytest.mark.parametrize("lie", [silent, idle, senseless])
def test_a_peer_that_brings_nothing_is_left(target: Path, draft: Path, tmp_path: Path, lie: Lie) -> None:
    async def run() -> None:
        lies: dict[str, Lie] = {}
        async with (
            memory_swarm.peers(target, SPANS, tmp_path, lies=lies, drafts={2: draft}) as network,
            memory_swarm.client(network, target, draft_at="peer", wait_floor=0.2, timeout=2.0) as model,
        ):
            expected = await model.generate(PROMPT, max_new_tokens=40)
            assert expected.drafted_at is not None

            def begin(result: Result) -> None:
                lies[expected.drafted_at or ""] = lie

            result = await events(model.stream(PROMPT, max_new_tokens=40), 10, begin)
            assert result.token_ids == expected.token_ids
            assert result.drafted_at is None
            with pytest.raises(UsageError, match="no peer can draft"):
                await model.generate(PROMPT)

    asyncio.run(run())


def test_who_finds_no_room_drafts_itself(target: Path, draft: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, SPANS[:2], tmp_path, drafts={1: draft}, max_client_generations=1) as network,
            memory_swarm.client(network, target, draft_at="peer") as model,
        ):
            first, second = await asyncio.gather(
                *(model.generate(PROMPT, max_new_tokens=40, window=2) for _ in range(2))
            )
        assert first.token_ids == second.token_ids == greedy(load_whole(target), PROMPT, 40)
        assert sum(result.drafted_at is None for result in (first, second)) == 1

    asyncio.run(run())


def test_a_generation_ends_with_its_stream(target: Path, draft: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, SPANS[:2], tmp_path, drafts={1: draft}, max_client_generations=1) as network,
            memory_swarm.client(network, target, draft_at="peer") as model,
        ):
            for _ in range(3):  # each would be refused if one before it still ran
                stream = aiter(model.stream(PROMPT, max_new_tokens=400, window=2))
                await anext(stream)
                await stream.aclose()
                await asyncio.sleep(0.1)
            result = await model.generate(PROMPT, max_new_tokens=8)
        assert result.drafted_at is not None

    asyncio.run(run())


def request(model: AsyncSwarmModel, **changes: Any) -> Generate:
    fields: dict[str, Any] = {
        "fingerprint": model.target.fingerprint,
        "text": tuple(PROMPT),
        "count": 10,
        "sampling": Sampling(),
        "rule": "match",
        "leniency": None,
        "window": "auto",
        "tree": True,
        "in_flight": "auto",
        "evidence_k": "auto",
    }
    return Generate(**{**fields, **changes})


async def answer(stream: Stream, message: AnyMessage) -> AnyMessage:
    await stream.send(message)
    return await stream.receive()


def test_senseless_requests_are_refused_and_hurt_nobody(target: Path, draft: Path, tmp_path: Path) -> None:
    async def ask(network: MemoryNetwork, model: AsyncSwarmModel, message: AnyMessage) -> AnyMessage:
        peer_id = model.target.roster.seats(tokens=8)[0].contact
        assert peer_id is not None
        stream = await network.join("stranger").open(Contact(peer_id.peer_id), DRAFT_PROTOCOL)
        try:
            return await answer(stream, message)
        finally:
            stream.close()

    async def run() -> None:
        async with (
            memory_swarm.peers(target, SPANS[:2], tmp_path, drafts={1: draft}) as network,
            memory_swarm.client(network, target, draft_at="peer") as model,
        ):
            refusals = {
                "gone": Ask(bytes(16), 1, 0),
                "model": request(model, fingerprint="0" * 64),
                "unlawful": request(model, text=(5, 100_000)),
                "unlawful ": request(model, text=(5,) * 3000),
                "unlawful  ": request(model, window=500),
            }
            answers = {why: await ask(network, model, message) for why, message in refusals.items()}
            assert all(isinstance(answer, Refused) for answer in answers.values())
            assert [answer.why for answer in answers.values() if isinstance(answer, Refused)] == [
                "unlawful",
                "model",
                "unlawful",
                "unlawful",
                "unlawful",
            ]
            result = await model.generate(PROMPT, max_new_tokens=8)
        assert result.drafted_at is not None

    asyncio.run(run())


@contextlib.asynccontextmanager
async def beside_a_stranger(
    target: Path, draft: Path, folder: Path
) -> AsyncIterator[tuple[AsyncSwarmModel, Callable[[], Awaitable[MemoryStream]]]]:
    """A client of a peer that drafts one text at a time, and what opens a stranger's stream to that peer."""
    async with (
        memory_swarm.peers(target, SPANS[:2], folder, drafts={1: draft}, max_generations=1) as network,
        memory_swarm.client(network, target, draft_at="peer") as model,
    ):
        contact = model.target.roster.seats(tokens=8)[0].contact
        assert contact is not None
        yield model, partial(network.join("stranger").open, contact, DRAFT_PROTOCOL)


def test_who_does_not_take_its_text_is_left_and_its_place_is_free(
    target: Path, draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specswarm.drafting._READ_SECONDS", 0.2)
    send, stuck = MemoryStream.send, asyncio.Event()

    async def hold(stream: MemoryStream, *messages: AnyMessage) -> None:
        if stream.peer_id == "stranger" and isinstance(messages[0], Generated | Refused):
            await stuck.wait()
        await send(stream, *messages)

    monkeypatch.setattr(MemoryStream, "send", hold)

    async def run() -> None:
        async with beside_a_stranger(target, draft, tmp_path) as (model, opened):
            stream = await opened()
            await stream.send(request(model, count=1000, window=1))
            with pytest.raises(PeerLost):
                await stream.receive()
            assert (await model.generate(PROMPT, max_new_tokens=8)).drafted_at is not None

    asyncio.run(run())


def test_nonsense_ends_a_stream_and_nothing_else(target: Path, draft: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with beside_a_stranger(target, draft, tmp_path) as (model, opened):
            for beginning in ([], [request(model, count=1000, window=1)]):
                stream = await opened()
                await stream.send(*beginning)
                stream._outbox.put_nowait(b"\xc1")
                with pytest.raises(PeerLost):
                    while True:
                        await stream.receive()
            result = await model.generate(PROMPT, max_new_tokens=8)
        assert result.drafted_at is not None

    asyncio.run(run())


@contextlib.asynccontextmanager
async def drafted_by(
    generate: Callable[..., Awaitable[None]], target: Path, draft: Path, folder: Path, /, **options: Any
) -> AsyncIterator[AsyncSwarmModel]:
    """A client whose texts are drafted at a peer that does this in place of generating."""
    with pytest.MonkeyPatch.context() as patch:
        async with (
            memory_swarm.peers(target, SPANS[:2], folder, drafts={1: draft}) as network,
            memory_swarm.client(network, target, **{"draft_at": "peer", **options}) as model,
        ):
            patch.setattr(DraftingService, "_generate", generate)
            yield model


LIES: dict[str, dict[str, Any]] = {
    "names a token that does not exist": {"tokens": (5, VOCAB + 5)},
    "more drafts stand than there were": {"drafted": 1, "accepted": 2},
    "are no chain": {"chain": (("peer", 1, 4),)},
    "are no chain ": {"chain": (("peer", 0, 1 << 30),)},
    "are no chain  ": {"chain": (("peer", 0, 1), ("other", 2, 4))},
}


@pytest.mark.parametrize("lie", LIES)
def test_what_a_drafting_peer_says_and_cannot_be_is_no_text_and_the_loop_goes_on_here(
    lie: str, target: Path, draft: Path, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "specswarm")

    async def lying(self: DraftingService, request: object, stream: Stream) -> None:
        honest = Generated((7,), 4, 0, 0.0, 0.01, 0.01, 0)
        await stream.send(msgspec.structs.replace(honest, **LIES[lie]))
        raise PeerLost(stream.peer_id, "it hangs up")

    async def run() -> None:
        async with drafted_by(lying, target, draft, tmp_path) as model:
            result = await model.generate(PROMPT, max_new_tokens=8)
            assert result.token_ids == greedy(load_whole(target), PROMPT, 8)
            assert (result.drafted_at, result.reroutes) == (None, 0)
            assert lie.strip() in caplog.text
            with pytest.raises(UsageError, match="no peer can draft"):  # who lied is left alone
                await model.generate(PROMPT, max_new_tokens=8)

    asyncio.run(run())


def test_the_text_goes_on_when_a_real_drafting_peer_names_a_token_that_does_not_exist(
    target: Path, draft: Path, tmp_path: Path
) -> None:
    """As a hop it says the truth, and stays one."""

    def place(number: int) -> Place:
        return LOOPBACK, partial(start_liar, subprocess.Popen, "beyond") if number else None

    async def run(initial_peers: list[str]) -> None:
        async with AsyncSwarmModel.connect(
            str(target), initial_peers=initial_peers, threads=1, draft="ngram", draft_at="peer"
        ) as model:
            result = await model.generate(PROMPT, max_new_tokens=24)
            assert result.token_ids == greedy(load_whole(target), PROMPT, 24)
            assert (result.drafted_at, result.reroutes) == (None, 0)
            with pytest.raises(UsageError, match="no peer can draft"):
                await model.generate(PROMPT, max_new_tokens=24)

    options = ["--threads", "1", "--draft", str(draft)]
    with running_swarm(str(target), ("0:4",), tmp_path, options=options, place=place, ready_seconds=90) as (
        initial_peers,
        _,
    ):
        asyncio.run(run(initial_peers))


def test_seconds_that_have_not_passed_are_not_believed(target: Path, draft: Path, tmp_path: Path) -> None:
    async def boasting(self: DraftingService, request: object, stream: Stream) -> None:
        for token in greedy(load_whole(target), PROMPT, 8):
            await stream.send(Generated((token,), 0, 0, 3600.0, 3600.0, 3600.0, 0))

    async def run() -> None:
        async with drafted_by(boasting, target, draft, tmp_path) as model:
            result = await model.generate(PROMPT, max_new_tokens=8)
            assert result.drafted_at is not None
            assert result.draft_seconds + sum(result.trip_seconds) <= result.seconds
            assert max(result.compute_seconds) <= result.seconds

    asyncio.run(run())


def test_a_drafting_peer_that_is_much_slower_than_it_announces_is_left_for_the_client(
    target: Path, draft: Path, tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "specswarm")
    monkeypatch.setattr("swarm.model.speed.measure", lambda _: Speed(0.01, 0.001))  # of a stage
    monkeypatch.setattr("swarm.drafting.model.measure", lambda _: Speed(0.0001, 0.0001))

    async def slow(self: DraftingService, request: Generate, stream: Stream) -> None:
        for token in greedy(load_whole(target), request.text, request.count):
            await asyncio.sleep(0.5)
            await stream.send(Generated((token,), 0, 0, 0.0, 0.01, 0.01, 0))

    async def run() -> None:
        async with drafted_by(slow, target, draft, tmp_path, draft_at="auto", draft="none") as model:
            while not all(peer.links for peer in model.target.roster.peers.values()):  # the directory tells no news
                await asyncio.sleep(0.05)
                await model.refresh()
            result = await model.generate(PROMPT, max_new_tokens=24)
            assert result.token_ids == greedy(load_whole(target), PROMPT, 24)
            assert len(result.verdicts) > 3
            assert result.drafted_at is None
            assert "drafting elsewhere from now on" in caplog.text
            again = await model.generate(PROMPT, max_new_tokens=24)  # and it is remembered
            assert again.seconds < 4 * 0.5
            assert not model.target.roster.cooldowns.active

    asyncio.run(run())


def test_a_peer_drafts_only_for_whom_its_owner_allows(target: Path, draft: Path, tmp_path: Path) -> None:
    with Identity.hold(tmp_path / "stranger.key") as identity:
        stranger = identity.peer_id

    async def run() -> None:
        async with (
            memory_swarm.peers(target, SPANS[:1], tmp_path, drafts={0: draft}, deny=(stranger,)) as network,
            memory_swarm.peers(target, SPANS[1:2], tmp_path, network),
            memory_swarm.client(network, target) as model,
        ):
            contact = model.target.roster.seats(tokens=8)[0].contact
            assert contact is not None
            stream = await network.join(stranger).open(contact, DRAFT_PROTOCOL)
            answered = await answer(stream, request(model))
            assert isinstance(answered, Refused)
            assert answered.why == "stranger"

    asyncio.run(run())


def test_peers_that_do_not_draft_are_not_asked(target: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, SPANS[:2], tmp_path) as network,
            memory_swarm.client(network, target) as model,
        ):
            assert (await model.generate(PROMPT, max_new_tokens=4)).drafted_at is None
            with pytest.raises(PeerLost, match="does not serve that"):
                await network.join("stranger").open(
                    next(iter(model.target.roster.peers.values())).contact, DRAFT_PROTOCOL
                )
        async with memory_swarm.peers(target, SPANS[:2], tmp_path) as network:
            for options in (
                {},
                {"audit": 0.5},
                {"allow": ["12D3KooWPSpNoeNhNct4NVYpD3TvBXdc2XpVQCH3j3dHftftFWjf"]},
            ):
                async with memory_swarm.client(network, target, draft_at="peer", **options) as model:
                    with pytest.raises(UsageError, match="no peer can draft"):
                        await model.generate(PROMPT, max_new_tokens=4)

    asyncio.run(run())
