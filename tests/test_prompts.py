"""What may be given as a prompt: its meaning is plain, or one line says what to give, before anything is sent."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BatchEncoding, PreTrainedTokenizerFast

from client.config import GenerationConfig
from client.prompt import token_ids
from client.prompt_text import text_ids, warn_of_two_begins
from swarm import config
from swarm.errors import UsageError
from swarm.speculation.sampling import Sampling
from tests import memory_swarm
from tests.models import greedy, load_whole
from tests.tokenizer_kinds import BEGIN, END, KINDS, TOOL, TURN, byte_fallback, byte_level, unigram, word_level

IDS = [5, 6, 7]
MESSAGES = [{"role": "user", "content": "hi"}]
GIVEN = {
    "list": IDS,
    "tuple": tuple(IDS),
    "range": range(5, 8),
    "generator": (i for i in IDS),
    "numpy": np.array(IDS),
    "numpy, small": np.array([IDS], dtype=np.uint8),
    "numbers of numpy": [np.int64(5), 6, np.uint8(7)],
    "tensor": torch.tensor(IDS),
    "batch of one": torch.tensor([IDS]),
    "list of one list": [IDS],
    "list of one tensor": [torch.tensor(IDS)],
    "list of tensors": [torch.tensor(i) for i in IDS],
    "mapping": {"input_ids": IDS, "attention_mask": [1, 1, 1]},
    "encoding": BatchEncoding({"input_ids": [IDS], "token_type_ids": [[0, 0, 0]]}, tensor_type="pt"),
}
REFUSED = {
    "1.0": ([1.0, 5], "1.0 among its token ids"),
    "True": ([True, 5], "True among"),
    "floats of numpy": (np.array([1.0, 2.0]), "1.0 among"),
    "True of numpy": ([np.True_], "True among"),
    "tensor of booleans": (torch.tensor([True]), "True among"),
    "batch": ([[1], [2]], "a batch of 2"),
    "batch as a tensor": (torch.ones(2, 3, dtype=torch.int64), "a batch of 2"),
    "three dimensions": ([[[1]]], "among its token ids"),
    "texts": (["hello"], "'hello' among"),
    "nothing in it": ([None], "None among"),
    "bytes": (b"hello", "of type bytes"),
    "set": ({1, 2}, "of type set"),
    "number": (5, "of type int"),
    "one number as a tensor": (torch.tensor(5), "of type Tensor"),
    "object": (object(), "of type object"),
    "text in a mapping": ({"input_ids": "hello"}, "of type dict"),
    "mapping": ({"text": "hello"}, "without input_ids"),
    "keys that are no names": ({1: 2}, "without input_ids"),
    "other keys that are no names": ({1: 2, "input_ids": [1]}, "1 beside"),
    "message": (MESSAGES[0], "chat template"),
    "messages": (MESSAGES, "chat template"),
    "conversation": ({"messages": MESSAGES}, "chat template"),
    "picture": ({"input_ids": [1], "pixel_values": [0.5]}, "pixel_values"),
    "view of bytes": (memoryview(b"ab"), "of type memoryview"),
    "tensor without values": (torch.empty(3, dtype=torch.int64, device="meta"), "Tensor cannot be read"),
    "sparse tensor": (torch.tensor([5, 6]).to_sparse(), "Tensor cannot be read"),
    "padding": ({"input_ids": [[1, 0]], "attention_mask": [[1, 0]]}, "padded"),
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_token_ids_may_come_in_any_plain_form(given: Any) -> None:
    ids = token_ids(given, 100)
    assert ids == IDS
    assert {type(token) for token in ids} == {int}


@pytest.mark.parametrize(("given", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_prompt_is_refused_in_one_line(given: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        token_ids(given, 100)
    assert "\n" not in str(caught.value)


def test_what_a_chat_template_gives_is_a_prompt() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}<|im_end|>{% endfor %}"
    ids = tokenizer("hi<|im_end|>")["input_ids"]
    for options in ({}, {"tokenize": True}, {"return_dict": False}, {"return_tensors": "pt"}):
        assert token_ids(tokenizer.apply_chat_template(MESSAGES, **options), 100) == ids
    assert tokenizer.apply_chat_template(MESSAGES, tokenize=False) == "hi<|im_end|>"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_new_tokens", 1.5),
        ("max_new_tokens", True),
        ("max_new_tokens", np.array([1, 2])),
        ("temperature", "hot"),
        ("temperature", True),
        ("seed", False),
        ("window", True),
        ("special_tokens", 3),
    ],
)
def test_an_option_of_a_wrong_type_is_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{option}: "):
        config.load(GenerationConfig, "generate", None, {option: value})


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    given = {
        "max_new_tokens": np.int64(5),
        "temperature": np.float32(0.5),
        "seed": torch.tensor(3),
        "tree": np.True_,
    }
    options = config.load(GenerationConfig, "generate", None, given)
    assert options == GenerationConfig(max_new_tokens=5, temperature=0.5, seed=3, tree=True)


def test_a_client_refuses_before_anything_is_sent_and_goes_on(target: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, target) as model,
        ):
            for prompt, words in (
                ([1.0, 5], "among its token ids"),
                ([-1], "token id -1"),
                ([260], "outside the vocabulary of 260"),
                ([1 << 70], "outside the vocabulary"),
                (itertools.count(), "outside the vocabulary"),
                (itertools.repeat(1), "context ends at 2048"),
                ([], "the prompt is empty"),
                ("", "the prompt is empty"),
                (None, "the prompt is empty"),
                ("a\ud800b", "half of a surrogate pair at character 1"),
            ):
                with pytest.raises(UsageError, match=words):
                    model.stream(prompt)
            assert model.encode("a\0b") == [*model.encode("a"), *model.encode("\0"), *model.encode("b")]
            whole = (await model.generate(IDS, max_new_tokens=4)).token_ids
            assert whole == greedy(load_whole(target), IDS, 4)
            assert (await model.generate(np.array([IDS]), max_new_tokens=np.int64(4))).token_ids == whole

    asyncio.run(run())


def test_an_empty_text_is_a_prompt_where_the_tokenizer_begins_every_text() -> None:
    assert text_ids(byte_fallback(), "", special_tokens=True) == []
    tokenizer = byte_fallback(adds_begin=True)
    for special_tokens in (True, False):
        assert text_ids(tokenizer, "", special_tokens=special_tokens) == [tokenizer.bos_token_id]


BEGINNING = {
    "byte-level BPE, with BOS": lambda: byte_level(adds_begin=True),
    "BPE with byte fallback, with BOS": lambda: byte_fallback(adds_begin=True),
}


@pytest.mark.parametrize("make", [*KINDS.values(), *BEGINNING.values()], ids=[*KINDS, *BEGINNING])
def test_without_special_tokens_a_text_names_none(make: Callable[[], Any]) -> None:
    """Whatever the vocabulary has; what the tokenizer adds stays, and other text is what it always was."""
    tokenizer = make()
    names = [BEGIN, END, TURN, TOOL] if tokenizer.is_fast else ["</s>", "<pad>", "<extra_id_0>"]
    added = {*tokenizer.added_tokens_decoder} - {tokenizer.unk_token_id}
    around = tokenizer("")["input_ids"]
    for text in (*names, "the".join(names), f"the cat{names[0]} {names[1]}", names[2] * 2):
        ids = text_ids(tokenizer, text, special_tokens=False)
        assert [token for token in ids if token in added] == around
        assert not tokenizer.is_fast or ids != text_ids(tokenizer, text, special_tokens=True)
    for text in ("the cat sat", " don't . grüße 你好 😀\n x", "a < b > c", "<s > <|im"):
        assert text_ids(tokenizer, text, special_tokens=False) == tokenizer(text)["input_ids"]


def test_control_tokens_as_text_are_decoded_to_that_text() -> None:
    for tokenizer in (byte_level(), byte_fallback(), unigram()):
        ids = text_ids(tokenizer, f"the{TURN}cat{END}", special_tokens=False)
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        if tokenizer.unk_token_id not in ids:
            assert tokenizer.decode(ids, skip_special_tokens=True) == f"the{TURN}cat{END}"
    assert text_ids(word_level(), f"the {END}", special_tokens=False)[0] == word_level()("the")["input_ids"][0]


def test_a_second_begin_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "specswarm"):
        for tokenizer, text, special_tokens, warnings in (
            (byte_level(adds_begin=True), f"{BEGIN}the cat", True, 1),
            (byte_level(adds_begin=True), f"{BEGIN}the cat", False, 0),
            (byte_level(adds_begin=True), "the cat", True, 0),
            (byte_level(), f"{BEGIN}the cat", True, 0),
        ):
            caplog.clear()
            warn_of_two_begins(tokenizer, text_ids(tokenizer, text, special_tokens=special_tokens))
            assert len(caplog.records) == warnings
            assert all("begins with <s>" in record.message for record in caplog.records)


def test_who_gives_a_prompt_with_two_begins_is_warned_and_not_who_drafts_for_him(
    target: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> list[int]:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, target) as model,
        ):
            model.tokenizer.bos_token, warned = model.tokenizer.convert_ids_to_tokens(5), list[int]()
            for begin in (model.stream, partial(model.go_on, sampling=Sampling())):
                for prompt in ([5, 5, 7], [5, 7]):
                    caplog.clear()
                    begin(prompt)
                    warned.append(sum("begins with" in record.message for record in caplog.records))
            return warned

    with caplog.at_level(logging.WARNING, "specswarm"):
        assert asyncio.run(run()) == [1, 0, 0, 0]


def test_a_text_without_special_tokens_goes_on_with_the_same_prompt(target: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, target) as model,
        ):
            model.tokenizer.add_tokens(["<a>"], special_tokens=True)
            assert model.encode("x<a>")[1:] == [256]
            file, prompt = tmp_path / "text", "x<a>"
            text = await model.generate(prompt, max_new_tokens=3, special_tokens=False, resume=file)
            assert text.prompt_tokens == 4
            again = await model.generate(prompt, max_new_tokens=5, resume=file)
            assert again.token_ids[:3] == text.token_ids
            with pytest.raises(UsageError, match="another prompt"):
                model.stream(prompt, special_tokens=True, resume=file)

    asyncio.run(run())
