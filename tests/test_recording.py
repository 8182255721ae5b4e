"""Recorded texts: they tell what would have become of any drafts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from swarm.errors import UsageError
from swarm.speculation import trace
from swarm.speculation.calibration import Hint
from swarm.speculation.trace import Row, Trace
from tests import memory_swarm
from tests.models import load_whole

PROMPT = [5, 6, 7, 8]
ROW = Row(0, -1, 0, (0.0, -1.5))
TRACE = Trace("target", "draft", 0.8, 4, (ROW, Row(-1, 1, 3, (0.0, -2.0))))


def accepted(rows: tuple[Row, ...], drafted: list[int]) -> list[int]:
    """Of chains of so many drafts, round by round, how many stand."""
    found, end = list[int](), 0
    for count in drafted:
        found.append(next((i for i in range(count) if rows[end + i].taken), count))
        end += found[-1] + 1
    return found


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "seed": 11}], ids=str)
def test_a_record_tells_what_becomes_of_any_chain_of_drafts(
    options: dict[str, Any], target: Path, draft: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:2", "2:4"], tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft), in_flight=1, tree=False) as model,
        ):
            file = tmp_path / "texts.jsonl"
            await model.generate(PROMPT, max_new_tokens=300, window=0, record=file, **options)
            (recorded,) = trace.read(file)
            assert (recorded.target, recorded.draft) == (str(target), str(draft))
            assert (recorded.temperature, recorded.prompt_tokens) == (options.get("temperature", 0.0), len(PROMPT))
            assert len(recorded.rows) == 300
            for window in (1, 4, 9):
                result = await model.generate(PROMPT, max_new_tokens=300, window=window, record=file, **options)
                drafted = [one.drafted for one in result.verdicts]
                assert 0 < max(drafted) <= window
                assert [one.accepted for one in result.verdicts] == accepted(recorded.rows, drafted)
                assert trace.read(file)[-1] == recorded

    asyncio.run(run())


def test_a_row_has_the_draft_models_first_choices(target: Path, draft: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft)) as model,
        ):
            file = tmp_path / "texts.jsonl.gz"
            result = await model.generate(PROMPT, max_new_tokens=40, record=file)
            (recorded,) = trace.read(file)
            text = [*PROMPT, *result.token_ids]
            with torch.no_grad():
                logits = load_whole(draft)(torch.tensor([text])).logits[0]
            for i, row in enumerate(recorded.rows):
                best, choices = logits[len(PROMPT) - 1 + i].topk(trace.CHOICES)
                token = result.token_ids[i]
                if token in choices:
                    assert row.taken == choices.tolist().index(token)
                assert row.scores[: trace.CHOICES] == pytest.approx((best - best[0]).tolist(), abs=0.006)

    asyncio.run(run())


def test_a_row_keeps_the_hint_whatever_its_rank() -> None:
    choices, scores = list(range(20, 36)), [-0.5 * i for i in range(16)]
    assert trace.row(choices, scores, 20, None) == Row(0, -1, 0, tuple(scores[:8]))
    assert trace.row(choices, scores, 35, None).taken == -1
    assert trace.row(choices, scores, 35, Hint(15, 2)) == Row(8, 8, 2, (*scores[:8], -7.5))
    assert trace.row(choices, scores, 22, Hint(2, 4)) == Row(2, 2, 4, tuple(scores[:8]))


def test_what_cannot_be_told_from_a_text_is_not_recorded(target: Path, draft: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with memory_swarm.peers(target, ["0:4"], tmp_path) as network:
            async with memory_swarm.client(network, target) as model:
                with pytest.raises(UsageError, match="ngram is no model"):
                    model.stream(PROMPT, record=tmp_path / "texts")
            async with memory_swarm.client(network, target, draft=str(draft)) as model:
                with pytest.raises(UsageError, match="under rejection the text depends on the drafts"):
                    model.stream(PROMPT, record=tmp_path / "texts", temperature=1, acceptance="rejection")
                with pytest.raises(UsageError, match="choose another file"):
                    await model.generate(PROMPT, max_new_tokens=2, record=tmp_path / "nowhere" / "texts")

    asyncio.run(run())


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_files_of_recorded_texts_grow_line_by_line(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"texts.{suffix}"
    trace.append(file, TRACE)
    trace.append(file, TRACE)
    assert trace.read(file) == [TRACE, TRACE]
    assert TRACE.acceptance == 0.5
    assert TRACE.rows[1].known_hint == Hint(1, 3)
    assert ROW.known_hint is None


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"[12, 3]", "line 2: no recorded text"),
        (b"\xff\xfe", "line 2: no recorded text"),
        (b"{}", "line 2: no recorded text: Object missing required field `target`"),
        (msgspec.json.encode(msgspec.structs.replace(TRACE, version=9)), "by another version of specswarm"),
        (
            msgspec.json.encode(msgspec.structs.replace(TRACE, rows=(ROW, Row(2, -1, 0, (0.0, -1.0))))),
            "row 1 speaks of a choice that it does not have",
        ),
    ],
    ids=["a list", "no text", "no fields", "another version", "a choice too many"],
)
def test_a_file_that_is_none_says_which_line_and_why(line: bytes, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "texts"
    trace.append(file, TRACE)
    with file.open("ab") as more:
        more.write(line + b"\n")
    with pytest.raises(UsageError, match=complaint):
        trace.read(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        trace.read(tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="no recorded texts"):
        trace.read(tmp_path / "empty")
    (tmp_path / "torn.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(UsageError, match=r"torn\.gz"):
        trace.read(tmp_path / "torn.gz")
