"""The rule `rejection` over real peers: the tokens are those of the rule itself on one machine."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from client.rounds import num_provable
from peer.session import Refusal
from swarm.drafting.sparse import SparseDrafter
from swarm.errors import UsageError
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Stage
from swarm.span import Span
from swarm.speculation.evidence import MAX_WEIGHT, Evidence
from swarm.speculation.rejection import reject
from swarm.speculation.sampling import Sampling, scores_of
from swarm.speculation.tree import DraftTree
from swarm.wire import MAX_EVIDENCE, MAX_SESSION_MESSAGE, Proofs, encode
from tests import memory_swarm
from tests.models import VOCAB, load_whole
from tests.test_peer_session import ID, MODEL, new_session, round_at, tree_at

PROMPT = [5, 17, 3, 9, 200, 41]
OPTIONS = {"temperature": 0.9, "top_k": 40, "repetition_penalty": 1.1, "seed": 11, "acceptance": "rejection"}
SAMPLING = Sampling(0.9, top_k=40, repetition_penalty=1.1, seed=11)


@pytest.fixture(scope="module")
def stage(draft: Path) -> Stage:
    source = ModelSource.resolve(str(draft))
    return load_stage(source, Span(0, source.info.num_layers))


def on_one_machine(target: Path, stage: Stage, sampling: Sampling, k: int, window: int, count: int) -> list[int]:
    """Round after round, with the whole target."""
    model, text = load_whole(target), list(PROMPT)
    drafter = SparseDrafter(stage, VOCAB, sampling, k, lambda: 0.0)
    while (room := len(PROMPT) + count - len(text)) > 0:
        drafter.follow(text, room - 1)
        while len(drafter.chances(window)) < window and drafter.grow():
            pass
        tree = drafter.tree(window)
        with torch.inference_mode():
            logits = model(torch.tensor([[*text, *tree.tokens]])).logits[0, len(text) - 1 :, :VOCAB].float()
        text += reject(logits, text, tree.tokens, tree.proofs, sampling)[:room]
    return text[len(PROMPT) :]


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("spans", [["0:4"], ["0:1", "1:3", "3:4"]], ids=["one peer", "three"])
def test_tokens_are_those_of_the_rule(
    spans: list[str], k: int, target: Path, draft: Path, stage: Stage, tmp_path: Path
) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, spans, tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft)) as model,
        ):
            result = await model.generate(PROMPT, max_new_tokens=40, window=4, evidence_k=k, **OPTIONS)
        assert result.accepted > 0
        assert result.token_ids == on_one_machine(target, stage, SAMPLING, k, 4, 40)

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["model", "ngram", "none"])
def test_frequencies_over_a_chain_are_the_targets(kind: str, target: Path, draft: Path, tmp_path: Path) -> None:
    """The first two tokens, with windows and evidence that are chosen anew for each round."""
    samples, prompt = 600, [5, 17, 3, 5, 17]
    drawn: Counter[int] = Counter()

    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:2", "2:4"], tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft) if kind == "model" else kind) as model,
        ):
            for seed in range(samples):
                result = await model.generate(
                    prompt, max_new_tokens=2, temperature=0.6, top_k=5, seed=seed, acceptance="rejection"
                )
                drawn[result.token_ids[0]] += 1

    asyncio.run(run())
    with torch.inference_mode():
        logits = load_whole(target)(torch.tensor([prompt])).logits[0, -1, :VOCAB].float()
    scores, ids = scores_of(logits, prompt, Sampling(0.6, top_k=5))
    shares = scores.softmax(-1)
    assert drawn.keys() <= set(ids.tolist())
    observed = [drawn[token] for token in ids.tolist()]
    assert chisquare(observed, (shares * samples).tolist()).pvalue > 1e-3


def test_greedy_text_is_judged_by_match(target: Path, draft: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft)) as model,
        ):
            one = await model.generate(PROMPT, max_new_tokens=20, acceptance="rejection")
            other = await model.generate(PROMPT, max_new_tokens=20)
            assert one.token_ids == other.token_ids

    asyncio.run(run())


def test_a_text_under_rejection_is_not_audited(target: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, target, audit=0.5) as model,
        ):
            with pytest.raises(UsageError, match="audit under match"):
                await model.generate(PROMPT, max_new_tokens=2, **OPTIONS)

    asyncio.run(run())


def test_drafts_are_those_of_a_drafter_from_scratch_after_any_history(stage: Stage) -> None:
    drafter, text = SparseDrafter(stage, VOCAB, SAMPLING, 8, lambda: 0.0), list(PROMPT)
    for step in range(12):
        fresh = SparseDrafter(stage, VOCAB, SAMPLING, 8, lambda: 0.0)
        trees = []
        for one in (drafter, fresh):
            one.follow(text, 100)
            while len(one.chances(5)) < 5 and one.grow():
                pass
            trees.append(one.tree(5))
        assert trees[0].tokens == trees[1].tokens
        assert all(
            proof.probability(token) > 0 for token, proof in zip(*(trees[0].tokens, trees[0].proofs), strict=True)
        )
        drafter.grow()
        text += [*trees[0].tokens[: step % 6], step % 7] if step % 4 else [*trees[0].tokens]


def test_few_choices_of_little_share_are_left_out(stage: Stage) -> None:
    sizes = []
    for least in (0.0, 0.01, 0.05):
        drafter = SparseDrafter(stage, VOCAB, Sampling(1.0), MAX_EVIDENCE, lambda least=least: least)
        drafter.follow(PROMPT, 10)
        drafter.grow()
        sizes.append(len(drafter.tree(1).proofs[0].ids))
    assert sizes[0] > sizes[1] > sizes[2] >= 1


def test_as_many_drafts_are_sent_as_have_room_for_their_proofs() -> None:
    proof = Evidence(tuple([1 << 31] * 3000), tuple([MAX_WEIGHT] * 3000))
    tree = DraftTree((1,) * 9, tuple(range(-1, 8)), (), (proof,) * 9)
    count = num_provable(tree)
    assert 0 < count < 9
    message = Proofs(ID, 1, (proof.ids,) * count, (proof.weights,) * count)
    assert len(encode(message)) <= MAX_SESSION_MESSAGE


def test_a_round_waits_for_its_proofs_and_no_tree_is_judged() -> None:
    session = new_session()
    session.rule, session.span = "rejection", Span(1, MODEL.num_layers)
    round = round_at(0, (1, 2, 3), 4, num_drafts=2)
    assert session.lacks_proofs(round, MODEL)
    assert not session.lacks_proofs(round_at(0, (1, 2, 3), 4), MODEL)
    session.proofs = Proofs(ID, 4, ((1,), (2,)), ((1,), (1,)))
    assert not session.lacks_proofs(round, MODEL)
    with pytest.raises(Refusal, match="no trees"):
        session.check(tree_at(0, (1, 2, 3), (-1, -1)), 1, "the peer before", MODEL)
    with pytest.raises(Refusal, match="vocabulary"):
        session.check_proofs(Proofs(ID, 5, ((1000,),), ((1,),)), MODEL)
    session.rule = "match"
    with pytest.raises(Refusal, match="for the rule rejection"):
        session.check_proofs(Proofs(ID, 5, ((1,),), ((1,),)), MODEL)
