"""A client dies in mid-generation; another one goes on from its file, and the text is the one that would have been."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from swarm.errors import UsageError
from tests import memory_swarm
from tests.models import greedy, load_whole

PROMPT = [5, 6, 7, 8]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "seed": 11}, {"temperature": 0.9}], ids=str)
def test_an_interrupted_text_goes_on_as_it_would_have(
    options: dict[str, Any], target: Path, draft: Path, tmp_path: Path
) -> None:
    file = tmp_path / "text"

    async def run() -> None:
        async with memory_swarm.peers(target, ["0:2", "2:4"], tmp_path) as network:
            async with memory_swarm.client(network, target, draft=str(draft)) as model:
                first = model.stream(PROMPT, max_new_tokens=24, resume=file, **options)
                pieces = aiter(first)
                begun = [await anext(pieces) for _ in range(3)]
                await pieces.aclose()
            with file.open("ab") as torn:
                torn.write(b"[12, 3")
            async with memory_swarm.client(network, target, draft="none") as model:
                second = model.stream(resume=file)
                text = "".join([piece async for piece in second])
                assert text.startswith("".join(begun))
                assert second.result.text == text
                whole = await model.generate(PROMPT, max_new_tokens=24, **options | {"seed": second.result.seed})
                assert second.result.token_ids == whole.token_ids
                assert second.result.rounds < whole.rounds
                if not options:
                    assert whole.token_ids == greedy(load_whole(target), PROMPT, 24)
                longer = await model.generate(resume=file, max_new_tokens=30)
                assert longer.token_ids[:24] == whole.token_ids
                assert len(longer.token_ids) == 30
                again = await model.generate(resume=file, max_new_tokens=30)
                assert (again.token_ids, again.rounds) == (longer.token_ids, 0)

    asyncio.run(run())


def test_what_would_make_it_another_text_is_refused(target: Path, tmp_path: Path) -> None:
    file = tmp_path / "text"

    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, target) as model,
        ):
            await model.generate(PROMPT, max_new_tokens=4, resume=file)
            before = file.read_bytes()
            for prompt, options, word in (
                ([1, 2], {}, "prompt"),
                (None, {"temperature": 0.5}, "temperature"),
                (None, {"seed": 3}, "seed"),
            ):
                with pytest.raises(UsageError, match=word):
                    model.stream(prompt, resume=file, **options)
            assert file.read_bytes() == before
            head = before.splitlines()[0]
            for content, words in (
                (before + b"[999]\n", "the text has token id 999, outside the vocabulary"),
                (before + b"[-1]\n", "the text has token id -1"),
                (before + b"[100000000000000000000000]\n", "the text has token id 1000000"),
                (head.replace(b'"prompt":[5,', b'"prompt":[-5,') + b"\n", "the prompt has token id -5"),
                (head.replace(b'"prompt":[5,6,7,8]', b'"prompt":[]') + b"\n", "the prompt is empty"),
            ):
                file.write_bytes(content)
                with pytest.raises(UsageError, match=f"{file}: {words}"):
                    model.stream(resume=file)
            with pytest.raises(UsageError, match="prompt is empty"):
                model.stream(resume=tmp_path / "new")

    asyncio.run(run())
