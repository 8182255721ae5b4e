"""The rule `rejection` over real peers: the tokens are those of the rule itself on one machine."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from client.rounds import num_provable, proofs
from peer.proofs import Proven
from peer.session import Refusal, Session
from swarm.codec import encode
from swarm.drafting.sparse import SparseDrafter
from swarm.errors import UsageError
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Stage
from swarm.span import Span
from swarm.speculation.evidence import MAX_WEIGHT, Evidence
from swarm.speculation.processors import Processors
from swarm.speculation.rejection import reject
from swarm.speculation.sampling import Sampling, scores_of
from swarm.speculation.tree import DraftTree
from swarm.wire import MAX_CHOICES, MAX_EVIDENCE, MAX_SESSION_MESSAGE, MAX_TAIL, Proofs, Round
from tests import memory_swarm
from tests.models import VOCAB, load_whole
from tests.test_peer_session import ID, MODEL, new_session, round_at, tree_at

PROMPT = [5, 17, 3, 9, 200, 41]
OPTIONS = {"temperature": 0.9, "top_k": 40, "repetition_penalty": 1.1, "seed": 11, "acceptance": "rejection"}
SAMPLING = Sampling(0.9, top_k=40, seed=11, processors=Processors(repetition_penalty=1.1))


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
        assert result.accepted == sum(verdict.accepted for verdict in result.verdicts) > 0
        assert result.drafted == sum(verdict.drafted for verdict in result.verdicts)
        assert 0 < sum(verdict.seconds for verdict in result.verdicts) <= result.seconds
        assert result.evidence_bytes > 2 * k * result.drafted
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


@pytest.mark.parametrize("choices", [1, 100, 3000, MAX_EVIDENCE])
def test_proofs_go_in_as_many_messages_as_it_takes_and_drafts_beyond_all_bounds_do_not(choices: int) -> None:
    proof = Evidence(tuple([1 << 31] * choices), tuple([MAX_WEIGHT] * choices))
    chain = DraftTree.chain((1,) * 40)
    whole = DraftTree(chain.tokens, chain.parents, (), (proof,) * 40)
    tree = whole.cut(num_provable(whole))
    assert len(tree) == min(40, MAX_CHOICES // choices)
    parts = proofs(ID, 1, tree)
    assert all(len(encode(part)) <= MAX_SESSION_MESSAGE for part in parts)
    proven = Proven()
    for part in parts:
        assert proven.with_part(part) != proven
        proven = proven.with_part(part)
    assert proven == Proven(1, tree.proofs)


def test_a_round_waits_for_all_its_proofs_and_no_tree_is_judged() -> None:
    session = last_hop()
    round = round_at(0, (1, 2, 3), 4, num_drafts=2)
    assert session.lacks_proofs(round, MODEL)
    assert not session.lacks_proofs(round_at(0, (1, 2, 3), 4), MODEL)
    session.prove(part_of(4, 0, 1), MODEL)
    assert session.lacks_proofs(round, MODEL)
    session.prove(part_of(4, 1, 2), MODEL)
    assert not session.lacks_proofs(round, MODEL)
    assert [proof.ids for proof in session.proven.of(round)] == [(1,), (2,)]
    assert session.proven.of(round_at(0, (1, 2, 3), 3, num_drafts=2)) == ()
    with pytest.raises(Refusal, match="no trees"):
        session.check(tree_at(0, (1, 2, 3), (-1, -1)), 1, "the peer before", MODEL)
    with pytest.raises(Refusal, match="no trees"):
        session.check(Round(ID, 4, 0, (1,), 1, True, (0,), 1), 1, "the peer before", MODEL)


def test_proofs_that_are_old_or_leave_a_gap_are_passed_over_and_later_ones_replace() -> None:
    session = last_hop()
    for part in (part_of(4, 0, 1), part_of(4, 2, 9), part_of(3, 0, 9), part_of(5, 1, 9)):
        session.prove(part, MODEL)
    assert session.proven == Proven(4, (Evidence((1,), (1,)),))
    session.prove(part_of(4, 0, 7), MODEL)
    assert session.proven == Proven(4, (Evidence((7,), (1,)),))
    session.prove(part_of(5, 0, 8), MODEL)
    assert session.proven == Proven(5, (Evidence((8,), (1,)),))


def test_proofs_that_may_not_be_are_refused_and_change_nothing() -> None:
    session = last_hop()
    whole = ((1,) * MAX_EVIDENCE,) * (MAX_CHOICES // MAX_EVIDENCE)
    session.prove(Proofs(ID, 5, whole, whole), MODEL)
    before = session.proven
    with pytest.raises(Refusal, match="choices"):
        session.prove(part_of(5, len(whole), 1), MODEL)
    with pytest.raises(Refusal, match="vocabulary"):
        session.prove(part_of(6, 0, 1000), MODEL)
    text = tuple([1] * (MAX_TAIL + 2))
    with pytest.raises(Refusal, match="text with drafts"):
        session.lacks_proofs(round_at(0, (*text, 2), 6, num_drafts=1), MODEL)
    session.rule = "match"
    with pytest.raises(Refusal, match="for the rule rejection"):
        session.prove(part_of(6, 0, 1), MODEL)
    assert session.proven == before


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_tokens_are_those_of_the_rule_though_a_hop_dies(
    lost: int, target: Path, draft: Path, stage: Stage, tmp_path: Path
) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:1", "1:3", "3:4"] * 2, tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft)) as model,
        ):
            stream = model.stream(PROMPT, max_new_tokens=40, window=4, evidence_k=MAX_EVIDENCE, **OPTIONS)
            gone: list[str] = []
            async for _ in stream:
                if not gone and len(stream.result.token_ids) >= 15:
                    gone.append(stream.result.chain[lost][0])
                    network.leave(gone[0])
            assert stream.result.reroutes >= 1
            assert gone[0] not in [peer for peer, _ in stream.result.chain]
            assert stream.result.token_ids == on_one_machine(target, stage, SAMPLING, MAX_EVIDENCE, 4, 40)
            assert stream.result.evidence_bytes > 0

    asyncio.run(run())


def test_the_drafts_of_a_round_are_all_sent_at_once_for_nothing_can_follow(
    target: Path, draft: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft)) as model,
        ):
            assert not model.stream(PROMPT, **OPTIONS)._draft._overlap.is_wanted
            assert model.stream(PROMPT, **OPTIONS | {"acceptance": "match"})._draft._overlap.is_wanted

    asyncio.run(run())


def last_hop() -> Session:
    """A session of the rule rejection."""
    session = new_session()
    session.rule, session.span = "rejection", Span(1, MODEL.num_layers)
    return session


def part_of(number: int, first: int, token: int) -> Proofs:
    """Of one draft of a round, that it was sure to be this token."""
    return Proofs(ID, number, ((token,),), ((1,),), first)
