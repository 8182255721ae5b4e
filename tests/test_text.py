"""Text that comes in pieces: joined, they are what the tokenizer makes of the whole."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from client.text import TextStream

SAMPLE = "def grüße(name):\n    print('Grüß dich 👋🏽, ' + name)  # 你好世界 🎼𝄞𓀀\n" * 3
END = "<eos>"
LINES = ["the cat sat on the mat and the dog on the log", "def print(name): return name", "grüße über alles"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with some merges; emoji and Chinese characters are split over several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        LINES * 10,
        trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=[END], show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def pieces_of(tokenizer: PreTrainedTokenizerFast, prompt: list[int], batches: list[list[int]]) -> list[str]:
    stream = TextStream(tokenizer, prompt)
    return [*(stream.push(batch) for batch in batches), stream.flush()]


def cut(ids: list[int], sizes: list[int]) -> list[list[int]]:
    """Batches of these sizes, then one by one."""
    batches, start = [], 0
    for size in [*sizes, *(1 for _ in ids)]:
        if start < len(ids):
            batches.append(ids[start : start + size])
            start += size
    return batches


def test_pieces_of_multi_byte_text_join_to_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer(SAMPLE)["input_ids"]
    assert len(ids) > len(SAMPLE) / 2
    for size in (1, 2, 3, 5, 8):
        pieces = pieces_of(tokenizer, tokenizer("Grüße 👋 ")["input_ids"], cut(ids, [size] * len(ids)))
        assert "".join(pieces) == SAMPLE
        assert "\ufffd" not in "".join(pieces)


def test_unfinished_character_is_held_back_until_it_is_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("👋!")["input_ids"]
    assert len(ids) == 5
    assert pieces_of(tokenizer, [5], [[token] for token in ids]) == ["", "", "", "👋", "!", ""]


def test_flush_gives_what_was_held_back(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("a👋")["input_ids"][:-1]
    assert pieces_of(tokenizer, [5], [[token] for token in ids]) == ["a", "", "", "", "\ufffd"]


def test_flush_after_whole_characters_gives_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    stream = TextStream(tokenizer, [5])
    assert stream.flush() == ""
    assert stream.push(tokenizer("grüße")["input_ids"]) == "grüße"
    assert stream.flush() == ""


def test_special_tokens_are_no_text(tokenizer: PreTrainedTokenizerFast) -> None:
    word, end = tokenizer("the")["input_ids"], tokenizer.eos_token_id
    assert "".join(pieces_of(tokenizer, [end], [word, [end], word, [end]])) == "thethe"


def test_prompt_is_not_given_out_again(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = tokenizer("the cat sat on the mat")["input_ids"]
    assert "".join(pieces_of(tokenizer, prompt, [tokenizer(" and the dog")["input_ids"]])) == " and the dog"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12), st.text(max_size=30), st.lists(st.integers(1, 6), max_size=20))
@example("👋🏽👋🏽", "👋🏽", [])
def test_any_text_joins_to_itself(
    tokenizer: PreTrainedTokenizerFast, prompt: str, text: str, sizes: list[int]
) -> None:
    ids, before = tokenizer(text)["input_ids"], tokenizer(prompt)["input_ids"]
    assert "".join(pieces_of(tokenizer, before, cut(ids, sizes))) == text


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 329), max_size=30), st.lists(st.integers(1, 6), max_size=20))
def test_any_tokens_join_to_the_whole_decode(
    tokenizer: PreTrainedTokenizerFast, ids: list[int], sizes: list[int]
) -> None:
    """A model may well emit bytes that are no characters at all."""
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(pieces_of(tokenizer, [], cut(ids, sizes))) == whole


def test_leading_space_of_a_word_survives() -> None:
    """Tokenizers that mark the beginning of words drop the space of the first one they decode."""
    vocabulary = {"▁hello": 0, "▁world": 1, "!": 2, "<unk>": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    stream = TextStream(PreTrainedTokenizerFast(tokenizer_object=tokenizer), [0])
    assert [stream.push([token]) for token in (1, 0, 2, 1)] == [" world", " hello", "!", " world"]
