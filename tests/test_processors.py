"""Processors of logits: every bit is that of transformers' own `generate`, and nothing a stranger asks for breaks."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from swarm.speculation.evidence import Evidence, evidence
from swarm.speculation.match import match
from swarm.speculation.processors import MAX_LISTED, Processors
from swarm.speculation.rejection import reject
from swarm.speculation.sampling import Sampling, choose, contest, lead, scores_of, shaped
from swarm.speculation.semantic import Lenience, Leniency, views

VOCAB = 12
NEW = 6

tokens = st.integers(0, VOCAB - 1)
phrases = st.lists(tokens, min_size=1, max_size=3)
some = st.lists(tokens, min_size=1, max_size=3)
penalties = st.sampled_from([0.5, 1.3, 4.0])

wanted = st.fixed_dictionaries(
    {"eos_token_id": st.sampled_from([None, 2, [2, 5]])},
    optional={
        "sequence_bias": st.lists(st.tuples(phrases, st.floats(-9, 9)).map(list), min_size=1, max_size=4),
        "encoder_repetition_penalty": penalties,
        "repetition_penalty": penalties,
        "no_repeat_ngram_size": st.integers(0, 4),
        "encoder_no_repeat_ngram_size": st.integers(0, 4),
        "bad_words_ids": st.lists(phrases, min_size=1, max_size=4),
        "min_length": st.integers(0, 10),
        "min_new_tokens": st.integers(0, 6),
        "forced_bos_token_id": tokens,
        "forced_eos_token_id": some,
        "remove_invalid_values": st.booleans(),
        "exponential_decay_length_penalty": st.tuples(st.integers(0, 4), st.sampled_from([0.5, 1.4, 30.0])).map(
            list
        ),
        "suppress_tokens": some,
        "begin_suppress_tokens": some,
        "renormalize_logits": st.booleans(),
    },
)


@cache
def some_model() -> LlamaForCausalLM:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, eos_token_id=None, **sizes))


def by_transformers(options: dict[str, Any], prompt: list[int], text: list[int], logits: Tensor) -> Tensor:
    """What the list that `generate` makes of the options does to the scores [vocab] after a text."""
    model, ids = some_model(), torch.tensor([prompt])
    config, _ = model._prepare_generation_config(GenerationConfig(**options), max_new_tokens=NEW)
    model._prepare_special_tokens(config, device="cpu")
    config = model._prepare_generated_length(config, True, True, "input_ids", ids.shape[-1], ids)
    steps = model._get_logits_processor(config, ids.shape[-1], encoder_input_ids=ids, device="cpu")
    scores: Tensor = steps(torch.tensor([text]), logits.clone()[None])
    return scores[0]


def sampling_of(options: dict[str, Any], prompt: list[int], **others: Any) -> Sampling:
    options = dict(options)
    ends = options.pop("eos_token_id")
    return Sampling(
        **others,
        processors=msgspec.convert(options, Processors),
        prompt_tokens=len(prompt),
        max_length=len(prompt) + NEW,
        eos_token_id=tuple(ends if isinstance(ends, list) else [] if ends is None else [ends]),
    )


def random_logits(seed: int, rows: int = 1) -> Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def is_for_transformers(options: dict[str, Any]) -> bool:
    """Whether it takes them: a length penalty needs an end, bad words one that is none, and what is forced must be
    possible."""
    ends = options["eos_token_id"]
    words = options.get("bad_words_ids", [[0, 0]])
    singles = [[end] for end in (ends if isinstance(ends, list) else [ends])]
    suppressed = {*options.get("suppress_tokens", [])}
    if {*options.get("forced_eos_token_id", [-1])} <= suppressed or options.get(
        "forced_bos_token_id"
    ) in suppressed:
        return False
    return (ends is not None or "exponential_decay_length_penalty" not in options) and any(
        word not in singles for word in words
    )


@settings(max_examples=120, deadline=None)
@given(
    options=wanted.filter(is_for_transformers),
    prompt=st.lists(tokens, min_size=1, max_size=6),
    new=st.lists(tokens, max_size=NEW - 1),
    seed=st.integers(0, 99),
)
def test_every_bit_is_that_of_transformers_in_any_combination(
    options: dict[str, Any], prompt: list[int], new: list[int], seed: int
) -> None:
    [row], text = random_logits(seed), prompt + new
    expected = by_transformers(options, prompt, text, row)
    found = shaped(row, text, sampling_of(options, prompt))
    if expected.max() > -math.inf:
        assert torch.equal(found, expected.clamp(max=torch.finfo(torch.float32).max))
    elif not expected.isnan().any():  # nothing is left: its greedy mode takes token 0
        assert int(found.argmax()) == int(expected.argmax()) == 0


@example(
    options={"eos_token_id": None, "forced_bos_token_id": 0, "remove_invalid_values": True, "suppress_tokens": [0]},
    prompt=[0],
    new=[],
    temperature=0.8,
    narrowed={"top_k": 3},
    seed=0,
)
@example(
    options={"eos_token_id": None, "forced_bos_token_id": 0, "remove_invalid_values": True, "suppress_tokens": [0]},
    prompt=[0],
    new=[],
    temperature=0.0,
    narrowed={},
    seed=0,
)
@settings(max_examples=120, deadline=None)
@given(
    options=wanted,
    prompt=st.lists(tokens, min_size=1, max_size=4),
    new=st.lists(tokens, max_size=40),
    temperature=st.sampled_from([0.0, 5e-324, 0.8, 100.0]),
    narrowed=st.sampled_from([{}, {"top_k": 3}, {"top_p": 0.5}]),
    seed=st.integers(0, 99),
)
def test_whatever_is_forbidden_every_rule_finds_a_token(
    options: dict[str, Any],
    prompt: list[int],
    new: list[int],
    temperature: float,
    narrowed: dict[str, Any],
    seed: int,
) -> None:
    sampling = sampling_of(options, prompt, temperature=temperature, seed=seed, **narrowed)
    text, rows = prompt + new, random_logits(seed, 2)
    [chosen] = choose(rows[:1], text, [], sampling)
    choices, scores = contest(rows[0], text, sampling, 4)
    assert choices[0] == chosen
    assert all(map(math.isfinite, scores))
    leads = [lead(rows[0], text, token, sampling) for token in range(VOCAB)]
    assert leads[chosen] == 0.0
    assert not any(map(math.isnan, leads))
    assert match(rows, text, [chosen], sampling)[0][0] == chosen
    [view] = views(rows[:1], [text], sampling)
    lenient = Lenience(Leniency(tau=1, entropy=1, difference=1, disagreement=1), {-1: view})
    assert shaped(rows[0], text, sampling)[match(rows, text, [chosen], sampling, (), lenient)[0][0]] > -math.inf
    if temperature > 0:
        assert not scores_of(rows[0], text, sampling)[0].isnan().any()
        proof = evidence(rows[0], text, sampling, 4)
        assert chosen in range(VOCAB)
        assert len(reject(rows, text, [proof.ids[0]], [Evidence(proof.ids, proof.weights)], sampling)) in (1, 2)


@pytest.mark.parametrize(
    "processors",
    [
        Processors(
            exponential_decay_length_penalty=(0, 100.0), remove_invalid_values=True, renormalize_logits=True
        ),
        Processors(
            sequence_bias=(((1,), 1e30), ((2,), -1e30)), repetition_penalty=100, encoder_repetition_penalty=0.01
        ),
        Processors(suppress_tokens=tuple(range(VOCAB)), renormalize_logits=True),
        Processors(no_repeat_ngram_size=16, encoder_no_repeat_ngram_size=16, min_length=1 << 31),
        Processors(forced_bos_token_id=3, suppress_tokens=(3,)),
        Processors(forced_eos_token_id=(3,), min_new_tokens=1 << 31),
    ],
    ids=["decay", "bias", "all", "ngrams", "bos", "eos"],
)
@pytest.mark.parametrize("length", [0, 1, 5000])
def test_the_most_that_a_stranger_may_ask_for_breaks_nothing(processors: Processors, length: int) -> None:
    text = [i % VOCAB for i in range(length)]
    for temperature in (0.0, 0.8):
        for prompt_tokens, max_length in ((0, 0), (1, 2), (length, length + 1), (1 << 31, 1 << 31)):
            sampling = Sampling(temperature, 0, 0.9, 1, processors, prompt_tokens, max_length, (3, 4))
            [token] = choose(random_logits(1), text, [], sampling)
            assert 0 <= token < VOCAB
            assert lead(random_logits(1)[0], text, token, sampling) == 0.0


def test_a_draft_that_knows_fewer_tokens_is_shaped_by_those_it_knows() -> None:
    processors = Processors(suppress_tokens=(0, 11), bad_words_ids=((11, 2), (9,)), sequence_bias=(((10,), 5.0),))
    [row] = random_logits(3)
    whole = shaped(row, [1, 11], Sampling(processors=processors))
    assert torch.equal(shaped(row[:8], [1, 11], Sampling(processors=processors)), whole[:8])


def test_without_processors_the_logits_are_the_very_same() -> None:
    sampling, [row] = Sampling(prompt_tokens=3, max_length=9, eos_token_id=(1,)), random_logits(4)
    assert shaped(row, [1, 2], sampling) is row
    assert sampling.shaper is None


@pytest.mark.parametrize(
    "fields",
    [
        {"suppress_tokens": [1] * (MAX_LISTED + 1)},
        {"suppress_tokens": [1] * MAX_LISTED, "begin_suppress_tokens": [1]},
        {"bad_words_ids": [[1]] * 1400},
        {"sequence_bias": [[[1] * 33, 1.0]]},
        {"sequence_bias": [[[1], math.nan]]},
        {"sequence_bias": [[[1], math.inf]]},
        {"bad_words_ids": [[]]},
        {"no_repeat_ngram_size": 17},
        {"repetition_penalty": 0.0},
        {"exponential_decay_length_penalty": [0, -1.0]},
        {"min_length": -1},
        {"presence": 1},
    ],
    ids=str,
)
def test_what_would_take_long_or_makes_no_sense_does_not_cross_the_wire(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"processors": fields}), type=Sampling)
