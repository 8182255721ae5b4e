"""Why a text ends: in the result, as JSON and in the summary, wherever it was drafted, and when it had ended before."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from specswarm import outcome
from tests import memory_swarm

IDS = [5, 6, 7]


@pytest.mark.parametrize("draft_at", ["client", "peer"])
def test_why_a_text_ends_is_told(draft_at: str, target: Path, draft: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path, drafts={0: draft}) as network,
            memory_swarm.client(network, target, draft="none", draft_at=draft_at) as model,
        ):
            file = tmp_path / "text"
            part = model.stream(IDS, max_new_tokens=24, resume=file)
            pieces = aiter(part)
            await anext(pieces)
            await pieces.aclose()
            assert part.result.finish_reason is None
            whole = await model.generate(IDS, max_new_tokens=24, resume=file)
            again = await model.generate(max_new_tokens=24, resume=file)
            assert (whole.finish_reason, again.finish_reason, again.rounds) == ("length", "length", 0)
            assert (again.token_ids, again.drafted_at) == (whole.token_ids, None)

            end = whole.token_ids[4]
            at = whole.token_ids.index(end) + 1
            for count in (at, 24):
                file = tmp_path / f"text of {count}"
                for _ in range(2):
                    ended = await model.generate(IDS, max_new_tokens=count, resume=file, eos_token_id=[end])
                    assert (ended.finish_reason, ended.token_ids) == ("stop", whole.token_ids[:at])
            assert (await model.generate(resume=file, max_new_tokens=99)).finish_reason == "stop"

            full = await model.generate([5] * 2044, max_new_tokens=9)
            assert (full.finish_reason, len(full.token_ids)) == ("context", 4)
            assert (await model.generate([5] * 2044, max_new_tokens=4)).finish_reason == "length"
            assert json.loads(json.dumps(outcome.as_json(full)))["finish_reason"] == "context"
            assert "(context)" in outcome.summary(full)
            assert "(stop)" in outcome.summary(ended)

    asyncio.run(run())
