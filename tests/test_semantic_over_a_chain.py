"""The rule `semantic` over real peers: the tokens are those of the rule on one machine, and strict ones are exact."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs

from benchmarks.chaos.liar import Lie, silence
from client.chain import Chain
from client.patience import TripTimer
from client.routes import Routes
from client.terms import Terms
from peer.session import Refusal
from peer.views import Told
from specswarm import calibrate
from swarm.codec import decode, encode
from swarm.drafting.model import ModelDrafter
from swarm.errors import BadMessage, UsageError
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.span import Span
from swarm.speculation.flight import Flight
from swarm.speculation.match import Walk, go_on, match
from swarm.speculation.processors import Processors
from swarm.speculation.sampling import Sampling
from swarm.speculation.semantic import CHOICES, Lenience, Leniency
from swarm.speculation.thresholds import LADDER, boldest
from swarm.speculation.tree import ROOT, DraftTree, branching
from swarm.wire import Open, Round, Views
from tests import faulty, memory_swarm
from tests.models import VOCAB, load_whole
from tests.test_peer_session import ID, MODEL, new_session
from tests.toy_chain import LIMITS, open_at, opened, toy_chain
from tests.toy_swarm import introduction
from training.arithmetic import problems

PROMPT = [5, 17, 3, 9, 200, 41]
SPANS = ["0:1", "1:3", "3:4"]
BOLD = Leniency(tau=0.8, entropy=0.95, difference=0.95, disagreement=0.95)
STRICT = Leniency(tau=0.8, entropy=0.0, difference=1.0, disagreement=1.0)
SAMPLINGS = [Sampling(), Sampling(0.9, top_k=40, seed=3, processors=Processors(repetition_penalty=1.1))]


def options(leniency: Leniency, **others: Any) -> dict[str, Any]:
    return {**calibrate.rule(leniency), **others}


def lenience(tree: DraftTree) -> Lenience:
    return Lenience(BOLD, dict(zip(branching(tree.parents), tree.views, strict=True)))


def paths(whole: list[int], parents: list[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for token, parent in zip(whole, parents, strict=True):
        found.append([*(found[parent] if parent >= 0 else []), token])
    return found


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("spans", [["0:4"], SPANS], ids=["one peer", "three"])
def test_verdicts_on_trees_that_grow_are_those_of_the_rule(
    spans: list[str], sampling: Sampling, target: Path, draft: Path, tmp_path: Path
) -> None:
    whole = load_whole(target)
    source = ModelSource.resolve(str(draft))
    drafter = ModelDrafter(load_stage(source, Span(0, source.info.num_layers)), VOCAB, sampling, 3, has_views=True)
    lenient = 0

    def rows(text: list[int], ends: list[list[int]]) -> torch.Tensor:
        with torch.inference_mode():
            found = [whole(torch.tensor([[*text, *end]])).logits[0, -1, :VOCAB].float() for end in ends]
        return torch.stack(found)

    async def run() -> None:
        nonlocal lenient
        async with (
            memory_swarm.peers(target, spans, tmp_path) as network,
            memory_swarm.client(network, target, draft="none") as model,
        ):
            timer = TripTimer(1.0, 30.0)
            terms = Terms(sampling, "semantic", BOLD)
            chain = Chain(model.target, terms, Routes(model.target, round_tokens=9), timer=timer, timeout=60.0)
            text = list(PROMPT)
            while len(text) < len(PROMPT) + 40:
                drafter.follow(text, 30)
                for _ in range(3):
                    drafter.grow()
                tree = drafter.tree(6)
                assert len(tree.views) == len(branching(tree.parents))
                growing = asyncio.create_task(chain.verify(text, tree))
                while chain.flight is None or chain.flight.length != len(text):  # noqa: ASYNC110  # it tells nobody
                    await asyncio.sleep(0)
                more = drafter.more(Flight(0, len(text), tree), 5)
                await chain.send_more(more)
                ends = paths([*tree.tokens, *more.tokens], [*tree.parents, *more.parents])
                logits, size = rows(text, [[], *ends]), len(tree)
                tokens, nodes = match(logits[: size + 1], text, tree.tokens, sampling, tree.parents, lenience(tree))
                strict, _ = match(logits[: size + 1], text, tree.tokens, sampling, tree.parents)
                lenient += tokens != strict
                walk = Walk((*text, *tokens), nodes[-1] if nodes else ROOT)
                walk, found = go_on(
                    walk, logits[size + 1 :], more.tokens, sampling, more.parents, size, lenience(more)
                )
                text += (await growing).tokens
                assert tuple(text) == walk.text[: len(text)]
                if found:
                    assert chain.judges(text)
                    text += (await chain.verify(text, tree)).tokens
                assert tuple(text) == walk.text
            await chain.close()

    asyncio.run(run())
    assert lenient > 2


@pytest.mark.parametrize("temperature", [0.0, 0.9], ids=["greedy", "sampled"])
def test_strict_thresholds_give_the_text_of_match_and_bold_ones_another(
    temperature: float, target: Path, draft: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, SPANS, tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft)) as model,
        ):
            drafts, rounds = {"window": 6, "in_flight": 1}, {"strict": 0, "bold": 0}
            for seed in range(8):  # bold texts are others, and may be harder for the draft
                sampling = {"temperature": temperature, "seed": seed, "max_new_tokens": 60}
                exact = await model.generate(PROMPT, window=0, **sampling)
                strict = await model.generate(PROMPT, **drafts, **options(STRICT), **sampling)
                bold = await model.generate(PROMPT, **drafts, **options(BOLD), **sampling)
                assert strict.token_ids == exact.token_ids
                assert bold.token_ids != exact.token_ids
                assert len(bold.token_ids) == 60
                rounds["strict"] += strict.rounds
                rounds["bold"] += bold.rounds
        assert rounds["bold"] < rounds["strict"]

    asyncio.run(run())


def test_a_generation_goes_on_when_its_last_hop_falls_silent(target: Path, draft: Path, tmp_path: Path) -> None:
    lies: dict[str, Lie] = {}

    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:2", "2:4", "2:4"], tmp_path, lies=lies) as network,
            memory_swarm.client(network, target, draft=str(draft), wait_floor=0.3, wait_ceiling=2.0) as model,
        ):
            generation = model.stream(PROMPT, max_new_tokens=60, **options(BOLD))
            async for _ in generation:
                if not lies and len(generation.result.token_ids) > 10:
                    lies[generation.result.chain[-1][0]] = silence
            assert lies
            assert generation.result.reroutes >= 1
            assert len(generation.result.token_ids) == 60

    asyncio.run(run())


def test_what_cannot_be_lenient_says_so(target: Path, draft: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with memory_swarm.peers(target, ["0:4"], tmp_path) as network:
            async with memory_swarm.client(network, target, draft=str(draft), audit=0.5) as model:
                with pytest.raises(UsageError, match="semantic is another text: audit under match"):
                    model.stream(PROMPT, **options(BOLD))
            async with memory_swarm.client(network, target, draft="ngram") as model:
                with pytest.raises(UsageError, match="ngram is none"):
                    model.stream(PROMPT, **options(BOLD))
                with pytest.raises(UsageError, match="tau"):
                    model.stream(PROMPT, acceptance="semantic", semantic={"tau": 1.5})

    asyncio.run(run())


def test_a_text_that_is_resumed_keeps_its_thresholds(target: Path, draft: Path, tmp_path: Path) -> None:
    file = tmp_path / "journal"

    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft)) as model,
        ):
            await model.generate(PROMPT, max_new_tokens=8, resume=file, **options(BOLD))
            with pytest.raises(UsageError, match="semantic"):
                model.stream(resume=file, **options(STRICT))
            goes_on = model.stream(resume=file, max_new_tokens=12)
            assert goes_on._terms.leniency == BOLD
            assert len([piece async for piece in goes_on]) > 1
            assert len(goes_on.result.token_ids) == 12

    asyncio.run(run())


def test_views_that_cannot_be_are_refused() -> None:
    session = new_session()
    lawful = Views(ID, 4, ((1, 2),), ((3, 4),))
    with pytest.raises(Refusal, match="for the rule semantic"):
        session.check_views(lawful, MODEL)
    session.rule = "semantic"
    with pytest.raises(Refusal, match="for the last hop"):
        session.check_views(lawful, MODEL)
    session.span = Span(1, MODEL.num_layers)
    session.check_views(lawful, MODEL)
    with pytest.raises(Refusal, match="vocabulary"):
        session.check_views(Views(ID, 4, ((1, 1000),), ((3, 4),)), MODEL)
    few = tuple(range(CHOICES + 1))
    for ids, weights in ((((1, 2),), ((3,),)), (((1, 1),), ((3, 4),)), ((few,), ((*few[1:], 1),)), (((),), ((),))):
        with pytest.raises(BadMessage):
            decode(encode(Views(ID, 4, ids, weights)))


def test_no_more_is_kept_than_a_round_may_have() -> None:
    async def run() -> int:
        swarm = await toy_chain(limits=LIMITS)
        request = open_at(2)
        await opened(swarm, "last", structs.replace(request, rule="semantic", leniency=BOLD))
        table = swarm.tables["last"]
        session = table.find(request.session)
        most = LIMITS.max_drafts
        with pytest.raises(Refusal, match=f"takes {most}"):
            table.tell(session, Views(session.id, 1, ((1,),) * (most + 1), ((1,),) * (most + 1)))
        table.tell(session, Views(session.id, 1, ((1,),) * most, ((1,),) * most))
        return len(session.told)

    assert faulty.run(run()) == 1


@pytest.mark.parametrize(("rule", "leniency"), [("match", BOLD), ("semantic", None)])
def test_a_session_has_thresholds_under_the_rule_semantic_alone(rule: Any, leniency: Leniency | None) -> None:
    message = Open(ID, "f" * 64, 0, 4, None, introduction("next"), 0, 9, Sampling(), None, rule, leniency)
    with pytest.raises(BadMessage, match="thresholds"):
        decode(encode(message))


def test_what_was_told_is_of_the_round_that_it_fits_and_forgotten_with_newer_ones() -> None:
    told = Told()
    tree = Round(ID, 4, 0, (1, 2, 3), 2, True, (-1, 0))
    told.keep(Views(ID, 4, ((1,), (2,)), ((5,), (6,))))
    told.keep(Views(ID, 5, ((1,),), ((5,),)))
    assert told.of(Round(ID, 4, 0, (1, 2), 0, judged=False)) == {}
    assert {node: view.ids for node, view in told.of(tree).items()} == {-1: (1,), 0: (2,)}
    assert told.of(tree)  # the same round may come again
    assert told.of(Round(ID, 5, 0, (1, 2, 3), 2, True, (-1, 0))) == {}  # told of one branching node, not of two
    assert told.of(tree) == {}
    for number in range(100):
        told.keep(Views(ID, number, ((1,),), ((5,),)))
    assert len(told) == 16


def test_calibration_tries_every_setting_and_its_file_is_taken(tmp_path: Path) -> None:
    asked = [
        calibrate.Example(problem.prompt, f"The answer is {problem.answer}.")
        for problem in problems(6, 2, "heldout")
    ]

    async def run() -> None:
        async with (
            memory_swarm.peers(Path("embedded"), ["0:8"], tmp_path) as network,
            memory_swarm.client(network, Path("embedded"), draft="embedded-draft") as model,
        ):
            match, trials = await calibrate.trials(model, asked, {"max_new_tokens": 60}, seed=1)
            assert [trial.leniency for trial in trials] == list(LADDER)
            assert all(trial.asked == 2 for trial in (match, *trials))
            assert match.right == 2
            chosen = boldest(match, trials, 100.0)
            assert chosen is trials[-1]
            calibrate.write(tmp_path / "semantic.toml", match, chosen)
            table = calibrate.read(tmp_path / "semantic.toml")
            assert model.stream("Q", acceptance="semantic", semantic=table)._terms.leniency == LADDER[-1]
            assert calibrate.report(match, trials, 100.0, is_json=False) is chosen
            assert calibrate.report(match, trials[-1:], -1.0, is_json=True) is None

    asyncio.run(run())


def test_answers_are_found_whole() -> None:
    assert calibrate.is_right("so 5 + 1 = 6. The answer is 6.\n", "6")
    assert calibrate.is_right("The answer is 6.", "The answer is 6.")
    assert not calibrate.is_right("16, 60, 6.5 and x6", "6")


def test_a_file_that_has_no_examples_is_named(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    with pytest.raises(UsageError, match=r"examples\.jsonl"):
        calibrate.read_examples(file)
    file.write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(UsageError, match="line 2"):
        calibrate.read_examples(file)
    file.write_text("")
    with pytest.raises(UsageError, match="no examples"):
        calibrate.read_examples(file)
