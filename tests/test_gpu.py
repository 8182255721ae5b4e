"""On a GPU, where there is one: the same law as on a processor, against transformers on that GPU."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Slice
from swarm.span import Span
from tests import memory_swarm
from tests.models import VOCAB, greedy, load_whole

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SPANS = ["0:1", "1:3", "3:4"]
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    chance = random.Random(5)
    return [[chance.randrange(VOCAB) for _ in range(length)] for length in (1, 3, 17, 64, 300)]


@pytest.fixture(scope="module")
def whole(target: Path) -> LlamaForCausalLM:
    return load_whole(target).to("cuda")


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_greedy_tokens_equal_transformers_wherever_the_draft_runs(
    place: str, target: Path, draft: Path, prompts: list[list[int]], whole: LlamaForCausalLM, tmp_path: Path
) -> None:
    expected = [greedy(whole, prompt, NEW_TOKENS) for prompt in prompts]

    async def run() -> None:
        async with (
            memory_swarm.peers(target, SPANS, tmp_path, device="cuda") as network,
            memory_swarm.client(network, target, draft=str(draft), draft_device=place) as model,
        ):
            for window in (0, 4, "auto"):
                for prompt, tokens in zip(prompts, expected, strict=True):
                    in_flight = 1 if window != "auto" else "auto"
                    result = await model.generate(
                        prompt, max_new_tokens=NEW_TOKENS, window=window, in_flight=in_flight
                    )
                    assert result.token_ids == tokens, (window, len(prompt))

    asyncio.run(run())


@pytest.mark.parametrize("acceptance", ["match", "rejection"])
def test_a_seeded_text_is_the_same_on_a_gpu_and_on_a_processor(
    acceptance: str, target: Path, draft: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    async def texts(device: str) -> list[list[int]]:
        options = {"temperature": 0.8, "top_k": 30, "seed": 4, "acceptance": acceptance, "evidence_k": 8}
        async with (
            memory_swarm.peers(target, SPANS, tmp_path, device=device) as network,
            memory_swarm.client(network, target, draft=str(draft)) as model,
        ):
            return [
                (await model.generate(prompt, max_new_tokens=NEW_TOKENS, window=4, **options)).token_ids
                for prompt in prompts
            ]

    assert asyncio.run(texts("cuda")) == asyncio.run(texts("cpu"))


def test_a_tree_gives_each_node_the_logits_of_its_own_path(target: Path, whole: LlamaForCausalLM) -> None:
    stage = load_stage(ModelSource.resolve(str(target)), Span(0, 4), device="cuda")
    assert stage.is_flat
    cache, text, tree = stage.new_cache(), [7, 8, 9], [20, 21, 22, 23, 24]
    parents = (-1, -1, 0, 2, 1)
    stage.forward([Slice(cache, 0, torch.tensor(text))])
    got = stage.forward([Slice(cache, len(text), torch.tensor(tree), parents, num_logits=len(tree))])[0]
    for node, logits in enumerate(got):
        path, at = [], node
        while at >= 0:
            path, at = [tree[at], *path], parents[at]
        with torch.inference_mode():
            expected = whole(torch.tensor([[*text, *path]], device="cuda")).logits[0, -1]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_the_texts_are_close_to_transformers_own(target: Path, prompts: list[list[int]]) -> None:
    stage = load_stage(ModelSource.resolve(str(target)), Span(0, 4), device="cuda", dtype=torch.bfloat16)
    whole = LlamaForCausalLM.from_pretrained(target, dtype=torch.bfloat16).eval().to("cuda")
    for prompt in prompts:
        got = stage.forward([Slice(stage.new_cache(), 0, torch.tensor(prompt), num_logits=len(prompt))])[0]
        with torch.inference_mode():
            expected = whole(torch.tensor([prompt], device="cuda")).logits[0].float()
        torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05 * float(expected.std()))
