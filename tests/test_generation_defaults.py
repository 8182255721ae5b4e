"""generation_config.json: the text is that which transformers' own `generate` makes of it, over any chain; or a line
says what is wrong with it."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from client.result import Result
from swarm.errors import UsageError
from swarm.model.defaults import UNAPPLIED, GenerationDefaults
from swarm.model.source import ModelSource
from swarm.speculation.processors import Processors
from swarm.speculation.sampling import Sampling
from swarm.wire import DRAFT_PROTOCOL, Refused
from tests import memory_swarm
from tests.models import VOCAB, load_whole
from tests.test_drafting_peer import answer, request

PROMPT = [5, 17, 3, 9, 200, 41, 17, 3, 9]
TOKENS = 24


def with_defaults(model: Path, folder: Path, **values: Any) -> Path:
    """A copy of a model that has this generation_config.json."""
    if not folder.exists():
        shutil.copytree(model, folder)
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


def by_transformers(folder: Path, prompt: list[int] = PROMPT, **options: Any) -> list[int]:
    """What `generate` appends to the prompt, by the folder's own configuration."""
    ids = torch.tensor([prompt])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    options = {"max_new_tokens": TOKENS, "do_sample": False, **options}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def plain(target: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    return by_transformers(with_defaults(target, tmp_path_factory.mktemp("plain") / "m"))


CASES: dict[str, Any] = {
    "repetition": lambda text: {"repetition_penalty": 1.3},
    "favoured prompt": lambda text: {"encoder_repetition_penalty": 3.0},
    "bias": lambda text: {"sequence_bias": [[[text[0]], -50.0], [[text[1], text[2]], -50.0], [[77], 3.5]]},
    "n-grams": lambda text: {"no_repeat_ngram_size": 1},
    "n-grams of the prompt": lambda text: {"encoder_no_repeat_ngram_size": 1, "encoder_repetition_penalty": 3.0},
    "bad words": lambda text: {"bad_words_ids": [[text[3]], [text[0], text[1]]]},
    "least length": lambda text: {"min_length": len(PROMPT) + 6, "eos_token_id": text[2]},
    "least new": lambda text: {"min_new_tokens": 6, "eos_token_id": [text[2], text[4]]},
    "last token": lambda text: {"forced_eos_token_id": 7, "eos_token_id": 7},
    "decay": lambda text: {"exponential_decay_length_penalty": [4, 1.5], "eos_token_id": [9, 77]},
    "suppressed": lambda text: {"suppress_tokens": [text[0], text[5], VOCAB + 5]},
    "what is off by its value": lambda text: {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": -1,
        "encoder_no_repeat_ngram_size": -1,
        "bad_words_ids": [[], [text[3]]],
        "min_length": -5,
        "remove_invalid_values": 1,
    },
    "suppressed at first": lambda text: {"begin_suppress_tokens": [text[0]]},
    "all": lambda text: {
        "repetition_penalty": 1.2,
        "encoder_repetition_penalty": 1.1,
        "sequence_bias": [[[text[1]], 2.0]],
        "no_repeat_ngram_size": 2,
        "encoder_no_repeat_ngram_size": 3,
        "bad_words_ids": [[text[2], text[3]]],
        "min_new_tokens": 10,
        "forced_eos_token_id": [8],
        "remove_invalid_values": True,
        "exponential_decay_length_penalty": [12, 1.3],
        "suppress_tokens": [text[5]],
        "begin_suppress_tokens": [text[0]],
        "renormalize_logits": True,
        "eos_token_id": text[4],
    },
}


@pytest.mark.parametrize("case", CASES)
def test_text_is_that_of_transformers(
    case: str, plain: list[int], target: Path, draft: Path, tmp_path: Path
) -> None:
    folder = with_defaults(target, tmp_path / "m", **CASES[case](plain))
    expected = by_transformers(folder)
    assert expected != plain

    async def run() -> None:
        async with memory_swarm.peers(target, ["0:1", "1:3", "3:4"], tmp_path, drafts={2: draft}) as network:
            for drafter, options in (
                (str(draft), {}),
                (str(draft), {"window": 6, "tree": False, "in_flight": 1}),
                ("ngram", {"window": 3}),
                ("none", {}),
            ):
                async with memory_swarm.client(network, folder, draft=drafter, draft_at="client") as model:
                    assert (await model.generate(PROMPT, max_new_tokens=TOKENS, **options)).token_ids == expected
            async with memory_swarm.client(network, folder, draft="none", draft_at="peer") as model:
                there = await model.generate(PROMPT, max_new_tokens=TOKENS)
            assert (there.token_ids, bool(there.drafted_at)) == (expected, True)

    asyncio.run(run())


def test_a_prompt_of_one_token_is_followed_by_the_forced_one(target: Path, tmp_path: Path) -> None:
    folder = with_defaults(target, tmp_path / "m", forced_bos_token_id=33, begin_suppress_tokens=[40, 41, 42])
    expected = by_transformers(folder, [5])
    assert expected[0] == 33

    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, folder) as model,
        ):
            assert (await model.generate([5], max_new_tokens=TOKENS)).token_ids == expected

    asyncio.run(run())


def test_the_embedded_target_with_a_penalty_says_what_transformers_says(tmp_path: Path) -> None:
    embedded = Path(ModelSource.resolve("embedded").files.pretrained)
    folder = with_defaults(embedded, tmp_path / "m", repetition_penalty=1.3, eos_token_id=0)

    async def run() -> tuple[list[int], list[int]]:
        async with (
            memory_swarm.peers(embedded, ["0:4", "4:8"], tmp_path) as network,
            memory_swarm.client(network, folder, draft="embedded-draft") as model,
        ):
            own = await model.generate("def f(x):", max_new_tokens=6)
            without = await model.generate("def f(x):", max_new_tokens=6, repetition_penalty=1.0)
            return own.token_ids, without.token_ids

    own, without = asyncio.run(run())
    assert own == [270, 362, 309, 14, 70, 878]
    assert without == [270, 362, 309, 14, 88, 83]


def test_the_text_stays_the_same_when_a_peer_dies(
    plain: list[int], target: Path, draft: Path, tmp_path: Path
) -> None:
    folder = with_defaults(target, tmp_path / "m", **CASES["all"](plain))
    count = 60
    expected = by_transformers(folder, max_new_tokens=count, exponential_decay_length_penalty=[40, 1.2])

    async def run(at: str) -> Result:
        async with (
            memory_swarm.peers(target, ["0:2", "2:4", "2:4", "0:4"], tmp_path / at, drafts={3: draft}) as network,
            memory_swarm.client(network, folder, draft=str(draft), draft_at=at, window=2, in_flight=1) as model,
        ):
            decay = {"exponential_decay_length_penalty": [40, 1.2]}
            generation, killed = model.stream(PROMPT, max_new_tokens=count, processors=decay), False
            async for _ in generation:
                if not killed and len(generation.result.token_ids) >= 5:
                    network.leave(generation.result.drafted_at or generation.result.chain[-1][0])
                    killed = True
            return generation.result

    for at in ("client", "peer"):
        assert asyncio.run(run(at)).token_ids == expected


def test_a_text_goes_on_as_it_began_though_the_folder_says_something_else_now(
    plain: list[int], target: Path, tmp_path: Path
) -> None:
    folder, file = with_defaults(target, tmp_path / "m", **CASES["all"](plain)), tmp_path / "text"
    expected = by_transformers(folder)

    async def run() -> None:
        async with memory_swarm.peers(target, ["0:2", "2:4"], tmp_path) as network:
            async with memory_swarm.client(network, folder, window=0) as model:
                pieces = aiter(model.stream(PROMPT, max_new_tokens=TOKENS, resume=file))
                for _ in range(3):
                    await anext(pieces)
                await pieces.aclose()
            with_defaults(target, folder, repetition_penalty=9.0, eos_token_id=expected[6])
            async with memory_swarm.client(network, folder) as model:
                with pytest.raises(UsageError, match="processors"):
                    model.stream(resume=file, processors={"min_new_tokens": 3})
                with pytest.raises(UsageError, match="repetition_penalty"):
                    model.stream(resume=file, repetition_penalty=9.0)
                same = {"repetition_penalty": 1.2, "processors": {"min_new_tokens": 10}, "eos_token_id": plain[4]}
                assert (await model.generate(resume=file, **same)).token_ids == expected

    asyncio.run(run())


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({}, 1.0),
        ({"temperature": 0.9, "seed": 3}, 1.0),
        ({"temperature": 0.9, "seed": 3, "acceptance": "rejection", "evidence_k": VOCAB}, 0.9),
    ],
    ids=["greedy", "sampled", "rejection"],
)
def test_a_draft_that_is_the_target_is_taken_under_all_of_them(
    options: dict[str, Any], share: float, plain: list[int], target: Path, tmp_path: Path
) -> None:
    folder = with_defaults(target, tmp_path / "m", **CASES["all"](plain) | {"eos_token_id": None})

    async def run() -> Result:
        async with (
            memory_swarm.peers(target, ["0:2", "2:4"], tmp_path) as network,
            memory_swarm.client(network, folder, draft=str(target), window=4, tree=False, in_flight=1) as model,
        ):
            return await model.generate(PROMPT, max_new_tokens=40, **options)

    result = asyncio.run(run())
    assert result.accepted >= share * result.drafted > 0


def test_explicit_options_go_before_the_file(plain: list[int], target: Path, tmp_path: Path) -> None:
    folder = with_defaults(target, tmp_path / "m", **CASES["all"](plain))
    off = {
        "encoder_repetition_penalty": 1,
        "sequence_bias": [],
        "no_repeat_ngram_size": 0,
        "encoder_no_repeat_ngram_size": 0,
        "bad_words_ids": [],
        "min_new_tokens": 0,
        "forced_eos_token_id": [],
        "exponential_decay_length_penalty": [0, 1],
        "suppress_tokens": [],
        "begin_suppress_tokens": [],
    }

    async def run() -> list[int]:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, folder) as model,
        ):
            for wrong in (
                {"min_new_tokens": -1},
                {"suppress_tokens": [VOCAB]},
                {"foo": 1},
                {"repetition_penalty": 2},
            ):
                with pytest.raises(UsageError):
                    model.stream(PROMPT, processors=wrong)
            result = await model.generate(
                PROMPT, max_new_tokens=TOKENS, repetition_penalty=1.0, processors=off, eos_token_id=[]
            )
            return result.token_ids

    assert asyncio.run(run()) == plain


@pytest.mark.parametrize(
    "sampling",
    [Sampling(processors=Processors(suppress_tokens=(VOCAB,))), Sampling(eos_token_id=(VOCAB,))],
    ids=["forbidden", "end"],
)
def test_a_peer_that_drafts_refuses_what_names_a_token_that_there_is_not(
    sampling: Sampling, target: Path, draft: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path, drafts={0: draft}) as network,
            memory_swarm.client(network, target) as model,
        ):
            contact = model.target.roster.seats(tokens=8)[0].contact
            assert contact is not None
            stream = await network.join("stranger").open(contact, DRAFT_PROTOCOL)
            answered = await answer(stream, request(model, sampling=sampling))
        assert isinstance(answered, Refused)
        assert (answered.why, "not in the vocabulary" in answered.reason) == ("unlawful", True)

    asyncio.run(run())


WRONG = {
    'eos_token_id is "0"': {"eos_token_id": "0"},
    'eos_token_id is {"a": 0}': {"eos_token_id": {"a": 0}},
    r"eos_token_id is \[\[0\]\]": {"eos_token_id": [[0]]},
    "eos_token_id is 2.0": {"eos_token_id": 2.0},
    "eos_token_id is true": {"eos_token_id": True},
    "eos_token_id is .0, null": {"eos_token_id": [0, None]},
    "eos_token_id lists 65": {"eos_token_id": list(range(65))},
    "repetition_penalty: Expected": {"repetition_penalty": "1.3"},
    "repetition_penalty: Expected `float` >=": {"repetition_penalty": 0},
    "no_repeat_ngram_size: Expected": {"no_repeat_ngram_size": "1"},
    "repetition_penalty: Expected `float` >= ": {"repetition_penalty": -1.0},
    "bad_words_ids: Expected": {"bad_words_ids": [[1], "x"]},
    "bad_words_ids: token 260": {"bad_words_ids": [[1], [260]]},
    "forced_eos_token_id: token 999": {"forced_eos_token_id": 999},
    "suppress_tokens: Expected": {"suppress_tokens": 5},
    "sequence_bias: Expected": {"sequence_bias": {"1": 2.0}},
    "exponential_decay_length_penalty: Expected": {"exponential_decay_length_penalty": [1]},
    "forced_eos_token_id: suppress_tokens has": {"forced_eos_token_id": 7, "suppress_tokens": [5, 7]},
    "is no JSON object": [],
    "is no JSON object ": "x",
}


@pytest.mark.parametrize("reason", WRONG)
def test_nonsense_is_refused_by_the_name_of_its_file(reason: str, target: Path, tmp_path: Path) -> None:
    folder = with_defaults(target, tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps(WRONG[reason]))
    with pytest.raises(UsageError, match=f"generation_config.json:? {reason.strip()}"):
        ModelSource.resolve(str(folder)).generation_defaults()


def test_a_file_that_is_no_json_is_refused_by_its_name(target: Path, tmp_path: Path) -> None:
    folder = with_defaults(target, tmp_path / "m")
    for content in (b"nonsense", b"\xff", b"[" * 100_000):
        (folder / "generation_config.json").write_bytes(content)
        with pytest.raises(UsageError, match=r"generation_config\.json is no JSON"):
            ModelSource.resolve(str(folder)).generation_defaults()


@pytest.mark.parametrize("own", [None, 5, [5, 6], []], ids=str)
@pytest.mark.parametrize(
    "generation", [None, {}, {"eos_token_id": None}, {"eos_token_id": 7}, {"eos_token_id": [7, -1, 999]}]
)
def test_end_tokens_are_those_of_transformers(
    own: Any, generation: dict[str, Any] | None, target: Path, tmp_path: Path
) -> None:
    folder = with_defaults(target, tmp_path / "m", **generation or {})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": own}))
    if generation is None:
        (folder / "generation_config.json").unlink()
    theirs = load_whole(folder).generation_config.eos_token_id
    listed = theirs if isinstance(theirs, list) else [] if theirs is None else [theirs]
    found = ModelSource.resolve(str(folder)).generation_defaults().eos_token_id
    assert list(found) == [token for token in listed if 0 <= token < VOCAB]


def test_without_a_generation_config_the_old_fields_of_the_model_count(
    plain: list[int], target: Path, tmp_path: Path
) -> None:
    folder = with_defaults(target, tmp_path / "m")
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    old = {"repetition_penalty": 1.3, "suppress_tokens": [plain[5]], "min_length": 0}
    (folder / "config.json").write_text(json.dumps(config | old))
    read = load_whole(folder).generation_config
    assert (read.repetition_penalty, read.suppress_tokens) == (1.3, [plain[5]])
    defaults = ModelSource.resolve(str(folder)).generation_defaults()
    assert defaults.processors == {"repetition_penalty": 1.3, "suppress_tokens": (plain[5],)}
    assert defaults.file == "config.json"
    unsaid = {"text_config": {"bad_words_ids": None, "num_beams": None, "min_length": 3}, "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(unsaid))
    defaults = GenerationDefaults.read(None, folder / "config.json", VOCAB)
    assert defaults.processors == {"min_length": 3}
    assert defaults.unapplied == ()


def test_what_is_not_applied_is_said_in_one_line(
    target: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"num_beams": 4, "guidance_scale": 1.5, "max_time": 3, "temperature": 0.6, "do_sample": True}
    much: dict[str, Any] = {"bad_words_ids": [[1]] * 2000, "sequence_bias": [[[1] * 40, 1.0]]}
    much |= {"no_repeat_ngram_size": 20, "repetition_penalty": math.inf, "encoder_repetition_penalty": 0.001}
    folder = with_defaults(target, tmp_path / "m", **asked, **much, suppress_tokens=[3], eos_token_id=[5, 999])

    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, folder) as model,
        ):
            result = await model.generate(PROMPT, max_new_tokens=4)
            assert 3 not in result.token_ids

    asyncio.run(run())
    said = [record.getMessage() for record in caplog.records if "generation_config" in record.getMessage()]
    expected = (
        "sequence_bias, encoder_repetition_penalty, repetition_penalty, no_repeat_ngram_size, bad_words_ids, num_beams,"
        " guidance_scale, max_time, eos_token_id 999"
    )
    assert said == [f"generation_config.json asks for {expected}: not applied here"]


NO_PART_IN_A_GREEDY_TEXT = {
    # how long it is, and whether it is sampled: options of this program
    *("max_length", "max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p"),
    *("epsilon_cutoff", "eta_cutoff"),
    # beams alone
    *("early_stopping", "length_penalty", "num_return_sequences", "diversity_penalty", "num_beam_groups"),
    # how it is computed
    *("use_cache", "cache_config", "max_cache_len", "compile_config", "disable_compile", "prefill_chunk_size"),
    *("continuous_batching_config", "low_memory"),
    # lossless speculation, by transformers itself
    *("use_mtp", "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule"),
    *("assistant_confidence_threshold", "prompt_lookup_num_tokens", "max_matching_ngram_size"),
    *("assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight"),
    "speculation_type",
    # what is returned beside it
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
    # other tokens, where there is no prompt, or an encoder
    *("pad_token_id", "bos_token_id", "decoder_start_token_id", "transformers_version"),
}


def test_every_field_that_transformers_knows_is_honoured_named_or_has_no_part() -> None:
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    honoured = {*Processors.__struct_fields__, "eos_token_id"}
    assert known <= honoured | UNAPPLIED.keys() | NO_PART_IN_A_GREEDY_TEXT
    assert not honoured & (UNAPPLIED.keys() | NO_PART_IN_A_GREEDY_TEXT)
