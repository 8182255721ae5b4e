"""The law: tokens are those of transformers' generate, or of the seed, whatever chain, window and draft."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from tests import memory_swarm
from tests.models import VOCAB, greedy, load_whole

CHAINS = {1: ["0:4"], 2: ["0:1", "1:4"], 4: ["0:1", "1:2", "2:3", "3:4"]}
WINDOWS = (0, 1, 4, 8)
NEW_TOKENS = 20


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Twenty prompts from 1 to 1,000 tokens; some repeat themselves, which prompt lookup feeds on."""
    chance = random.Random(7)
    lengths = [1, 2, 3, 5, 8, 13, 21, 34, 55, 64, 65, 89, 127, 128, 129, 144, 233, 377, 610, 1000]
    texts = []
    for length in lengths:
        phrase = [chance.randrange(VOCAB) for _ in range(chance.choice((3, 10, length)))]
        texts.append((phrase * length)[:length])
    return texts


@pytest.fixture(scope="module")
def expected(target: Path, prompts: list[list[int]]) -> list[list[int]]:
    model = load_whole(target)
    return [greedy(model, prompt, NEW_TOKENS) for prompt in prompts]


@pytest.mark.parametrize("kind", ["model", "ngram", "none"])
@pytest.mark.parametrize("length", CHAINS)
def test_greedy_tokens_equal_transformers(
    length: int,
    kind: str,
    target: Path,
    draft: Path,
    prompts: list[list[int]],
    expected: list[list[int]],
    tmp_path: Path,
) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, CHAINS[length], tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft) if kind == "model" else kind) as model,
        ):
            accepted = 0
            for window in (*WINDOWS, "auto") if kind != "none" else (0,):
                for prompt, tokens in zip(prompts, expected, strict=True):
                    in_flight = 1 if window != "auto" else "auto"
                    result = await model.generate(
                        prompt, max_new_tokens=NEW_TOKENS, window=window, in_flight=in_flight
                    )
                    assert result.token_ids == tokens, (window, len(prompt))
                    assert len(result.chain) == length
                    assert result.accepted <= result.drafted
                    assert window == "auto" or result.drafted <= window * result.rounds
                    accepted += result.accepted
            assert (accepted > 0) == (kind != "none")

    asyncio.run(run())


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.8}, {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2}],
    ids=["plain", "narrowed"],
)
def test_seeded_tokens_depend_on_seed_and_prompt_alone(
    options: dict[str, float], target: Path, draft: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    async def run() -> set[tuple[int, ...]]:
        texts = set()
        for length, spans in CHAINS.items():
            folder = tmp_path / str(length)
            async with memory_swarm.peers(target, spans, folder) as network:
                for kind in (str(draft), "ngram", "none"):
                    async with memory_swarm.client(network, target, draft=kind) as model:
                        for window in (*WINDOWS, "auto"):
                            result = await model.generate(
                                prompts[8], max_new_tokens=40, seed=11, window=window, **options
                            )
                            texts.add(tuple(result.token_ids))
        return texts

    assert len(asyncio.run(run())) == 1


def test_repetition_penalty_equals_transformers(
    target: Path, draft: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    whole = load_whole(target)

    async def run() -> None:
        async with (
            memory_swarm.peers(target, CHAINS[2], tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft), window=4) as model,
        ):
            for prompt in prompts[4:10]:
                result = await model.generate(prompt, max_new_tokens=NEW_TOKENS, repetition_penalty=1.3)
                assert result.token_ids == greedy(whole, prompt, NEW_TOKENS, repetition_penalty=1.3)

    asyncio.run(run())


def test_sampled_tokens_have_the_targets_distribution(target: Path, draft: Path, tmp_path: Path) -> None:
    """Two tokens after one prompt over many seeds, speculated, against the exact probabilities of the first."""
    samples, prompt = 400, [5, 17, 42]
    with torch.no_grad():
        logits = load_whole(target)(torch.tensor([prompt])).logits[0, -1]
    exact = (logits.double() / 1.0).softmax(-1)

    async def run() -> Counter[int]:
        async with (
            memory_swarm.peers(target, CHAINS[2], tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft), window=2) as model,
        ):
            results = [
                await model.generate(prompt, max_new_tokens=2, temperature=1.0, seed=seed)
                for seed in range(samples)
            ]
        return Counter(result.token_ids[0] for result in results)

    counts = asyncio.run(run())
    common = [token for token in range(VOCAB) if exact[token] * samples >= 5]
    observed = [counts[token] for token in common] + [samples - sum(counts[token] for token in common)]
    probable = [float(exact[token]) for token in common]
    wanted = [p * samples for p in [*probable, 1 - sum(probable)]]
    assert chisquare(observed, wanted).pvalue > 1e-3


def test_ten_clients_at_once_get_what_each_gets_alone(
    target: Path, draft: Path, prompts: list[list[int]], expected: list[list[int]], tmp_path: Path
) -> None:
    async def run() -> None:
        async with memory_swarm.peers(target, CHAINS[2], tmp_path) as network:

            async def one(number: int) -> None:
                async with memory_swarm.client(network, target, draft=str(draft), window=number % 5) as model:
                    for prompt, tokens in list(zip(prompts, expected, strict=True))[number : number + 10 : 3]:
                        result = await model.generate(prompt, max_new_tokens=NEW_TOKENS)
                        assert result.token_ids == tokens

            await asyncio.gather(*map(one, range(10)))

    asyncio.run(run())
