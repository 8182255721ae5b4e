"""Chains whose hidden states travel packed, or in int8: what becomes of the text, and of who sends nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.chaos.liar import Lie
from client.generation import Result
from swarm.packing import pack
from swarm.wire import AnyMessage, Broken, Hidden, Open, Round
from tests import faulty, memory_swarm
from tests.models import greedy, load_whole
from tests.toy_chain import IDS, fed_by_a_liar, hidden, open_at, snapshot

PROMPT = [7 * i % 251 for i in range(150)]
NEW_TOKENS = 24
SPANS = ["0:2", "2:3", "3:4"]


class Overheard(dict[str, Lie]):
    """What peers pass on, as it leaves them."""

    def __init__(self) -> None:
        self.passed: list[Hidden] = []

    def get(self, _: str, default: Any = None) -> Lie:
        return self.note

    def note(self, message: AnyMessage) -> AnyMessage:
        if isinstance(message, Hidden):
            self.passed.append(message)
        return message


async def generated(
    target: Path,
    folder: Path,
    spans: Sequence[str] = SPANS,
    *,
    wire: str = "exact",
    dies: int | None = None,
    peers: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Result, list[Hidden]]:
    """A text after PROMPT, and what passed between the peers; hop `dies` is gone after some tokens."""
    lies = Overheard()
    async with (
        memory_swarm.peers(target, spans, folder, lies=lies, **(peers or {})) as network,
        memory_swarm.client(network, target, draft="ngram", wire=wire, **options) as model,
    ):
        generation = model.stream(PROMPT, max_new_tokens=NEW_TOKENS)
        async for _ in generation:
            now = generation.result
            if dies is not None and len(now.token_ids) >= NEW_TOKENS // 2:
                network.leave(now.chain[dies][0])
                dies = None
        return generation.result, lies.passed


def tokens(target: Path, folder: Path, *arguments: Any, **options: Any) -> list[int]:
    return asyncio.run(generated(target, folder, *arguments, **options))[0].token_ids


def test_packed_states_leave_the_text_as_it_is(target: Path, tmp_path: Path) -> None:
    result, passed = asyncio.run(generated(target, tmp_path, peers={"uplink_mbit": 1}))
    assert result.token_ids == greedy(load_whole(target), PROMPT, NEW_TOKENS)
    assert {message.packed for message in passed} == {True, False}  # the prompt is large, the drafts are not


def test_states_go_in_the_models_dtype_unless_the_client_asks_for_int8(target: Path, tmp_path: Path) -> None:
    for wire, form in (("exact", "float32"), ("int8", "int8")):
        _, passed = asyncio.run(generated(target, tmp_path, wire=wire))
        assert {message.dtype for message in passed} == {form}


@pytest.fixture(scope="module")
def undisturbed(target: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """The text in int8."""
    return tokens(target, tmp_path_factory.mktemp("int8"), wire="int8")


@pytest.mark.parametrize("dies", [0, 1, 2])
def test_in_int8_the_text_stays_the_same_when_a_hop_dies(
    dies: int, target: Path, tmp_path: Path, undisturbed: list[int]
) -> None:
    result, _ = asyncio.run(generated(target, tmp_path, [*SPANS, *SPANS], wire="int8", dies=dies))
    assert result.reroutes == 1
    assert result.token_ids == undisturbed


@pytest.mark.parametrize("chunk", [16, 50])
def test_in_int8_the_text_is_the_same_however_the_prompt_is_chunked(
    chunk: int, target: Path, tmp_path: Path, undisturbed: list[int]
) -> None:
    assert tokens(target, tmp_path, wire="int8", peers={"max_batch_tokens": chunk}) == undisturbed


@pytest.mark.parametrize("window", [0, 4])
def test_in_int8_the_text_is_the_same_whatever_is_drafted(
    window: int, target: Path, tmp_path: Path, undisturbed: list[int]
) -> None:
    assert tokens(target, tmp_path, wire="int8", window=window) == undisturbed


ROUND = Round(IDS[0], 0, 0, (1, 2), 1, True)


async def pushed(message: Hidden, request: Open) -> AnyMessage:
    """What the middle hop says to its client when the first one pushes this; nothing else has come of it."""
    swarm, client, push = await fed_by_a_liar(request)
    [session] = swarm.tables["middle"]
    before = snapshot(session)
    await push.send(message)
    answer = await client.receive()
    assert {name for name, value in snapshot(session).items() if value != before[name]} <= {"last_used"}
    assert swarm.engines["middle"].computed == 0
    return answer


@pytest.mark.parametrize(
    "states",
    [b"", b"garbage", pack(bytes(8), 4)[:-1], pack(bytes(12), 4), pack(bytes(1 << 20), 4)],
    ids=["nothing", "garbage", "cut short", "of another size", "a bomb"],
)
def test_what_cannot_be_unpacked_is_blamed_on_who_sent_it(states: bytes) -> None:
    answer = faulty.run(pushed(Hidden(ROUND, 1, "float32", states, (), packed=True), open_at(1)))
    assert isinstance(answer, Broken)
    assert answer.peer_id == "first"
    assert "packed states" in answer.reason


def test_packed_states_that_are_not_finite_are_blamed_on_who_sent_them() -> None:
    message = hidden(ROUND, 1, 2, "float32")
    packed = msgspec.structs.replace(message, states=pack(message.states, 4), packed=True)
    assert faulty.run(pushed(packed, open_at(1))) == Broken(IDS[0], "first", "its hidden states are not finite")


IN_INT8 = msgspec.structs.replace(open_at(1), wire="int8")


@pytest.mark.parametrize(
    ("request_", "message", "reason"),
    [
        (IN_INT8, Hidden(ROUND, 1, "int8", bytes(5), ()), "5 bytes of hidden states; 6 belong"),
        (IN_INT8, Hidden(ROUND, 1, "int8", bytes(8), ()), "8 bytes of hidden states; 6 belong"),
        (IN_INT8, hidden(ROUND, 1, 0, "float32"), "hidden states are float32; this session reads int8"),
        (open_at(1), Hidden(ROUND, 1, "int8", bytes(6), ()), "hidden states are int8; this session reads float32"),
    ],
    ids=["too short", "too long", "not in int8", "in int8 unasked"],
)
def test_states_that_the_session_did_not_ask_for_are_blamed_on_who_sent_them(
    request_: Open, message: Hidden, reason: str
) -> None:
    answer = faulty.run(pushed(message, request_))
    assert isinstance(answer, Broken)
    assert answer.peer_id == "first"
    assert answer.reason.startswith(reason)


@pytest.mark.parametrize("packed", [False, True])
def test_scales_that_are_no_numbers_are_blamed_on_who_sent_them(packed: bool) -> None:
    states = bytes(3) + b"\xc0\x7f\x01"  # two rows of a scale and a value
    message = Hidden(ROUND, 1, "int8", pack(states, 1) if packed else states, (), packed)
    assert faulty.run(pushed(message, IN_INT8)) == Broken(IDS[0], "first", "its hidden states are not finite")


def test_a_round_that_is_too_long_is_blamed_on_who_sent_it_before_it_is_unpacked() -> None:
    long = Round(IDS[0], 0, 0, (1,) * 17, 0, False)
    answer = faulty.run(pushed(Hidden(long, 1, "float32", b"garbage", (), packed=True), open_at(1)))
    assert isinstance(answer, Broken)
    assert answer.peer_id == "first"
    assert "takes 16 at a time" in answer.reason
