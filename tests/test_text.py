"""Text that comes in pieces: joined, they are what the tokenizer makes of the whole."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from client.text import TextStream, common
from tests.tokenizer_kinds import BYTES, KINDS, byte_fallback, unigram, word_piece

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


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    """A tokenizer of each kind."""
    tokenizer = KINDS[request.param]()
    tokenizer.ordinary = [i for i in range(len(tokenizer)) if i not in tokenizer.added_tokens_decoder]
    return tokenizer


def some_tokens(tokenizer: Any, max_size: int) -> st.SearchStrategy[list[int]]:
    """Of text or at random, with special, added and unknown ones, and with bytes, anywhere."""
    unknown = len(tokenizer) + 3 if tokenizer.is_fast else 0
    single = st.one_of(
        st.sampled_from(tokenizer.ordinary),
        st.sampled_from([*tokenizer.added_tokens_decoder, unknown]),
        st.sampled_from([i for token in BYTES if (i := tokenizer.convert_tokens_to_ids(token))] or [unknown]),
    ).map(lambda token: [token])
    words = st.sampled_from(["the cat", " hello", "你好", "😀", "ü", "\n\n"]).map(
        lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"])
    )
    return st.lists(st.one_of(single, words), max_size=max_size).map(lambda parts: [*chain.from_iterable(parts)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_pieces_join_to_the_decoded_whole_and_lag_three_tokens_at_most(kind: Any, data: st.DataObject) -> None:
    """Apart from runs of bytes that a later one breaks, where decoding takes back what it had made of them."""
    prompt, new = data.draw(some_tokens(kind, 8)), data.draw(some_tokens(kind, 25))
    sizes = data.draw(st.lists(st.integers(1, 12), max_size=6))

    def decoded(ids: list[int]) -> str:
        return str(kind.decode(ids, skip_special_tokens=True))

    before, whole = decoded(prompt), decoded(prompt + new)
    ways = [decoded(prompt + new[:i]).rstrip("\ufffd") for i in range(len(new) + 1)]
    if kind.convert_tokens_to_ids(BYTES[0]) is not None and BYTES[0] in kind.get_vocab():
        assume(whole.startswith(before) and all(whole.startswith(text) for text in ways))
    known = common(before, whole)
    stream, told, taken = TextStream(kind, prompt), "", 0
    for batch in cut(new, sizes):
        told += stream.push(batch)
        taken += len(batch)
        with_text = [i for i in range(taken) if decoded([*prompt, new[i]]) != before]
        decided = decoded(prompt + new[: with_text[-3] if len(with_text) > 3 else 0])
        assert len(told) >= common(decided, whole) - known
    assert told + stream.flush() == whole[known:]


@pytest.mark.parametrize("token", ["ÿ", "Ģ", "a", "Ċ"])
def test_time_is_linear_whatever_comes(tokenizer: PreTrainedTokenizerFast, token: str) -> None:
    """A broken character, one that never ends, text, white space."""
    decoded, lag = 0, 0

    class Counting:
        is_fast, added_tokens_decoder = True, tokenizer.added_tokens_decoder
        convert_ids_to_tokens = tokenizer.convert_ids_to_tokens

        def decode(self, ids: list[int], **options: bool) -> str:
            nonlocal decoded
            decoded += len(ids)
            return str(tokenizer.decode(ids, **options))

    stream, told = TextStream(Counting(), [5]), ""
    for i in range(4000):
        told += stream.push([tokenizer.convert_tokens_to_ids(token)])
        lag = max(lag, i + 1 - len(told))
    assert lag <= 3
    assert len(told + stream.flush()) == 4000
    assert decoded < 100 * 4000


def test_a_broken_run_of_bytes_leaves_the_text_around_it_whole() -> None:
    """What was given out stays, and each byte that fits nowhere is one U+FFFD."""
    tokenizer = byte_fallback()
    ids = tokenizer.convert_tokens_to_ids(
        ["<0xE4>", "<0xBD>", "<0xA0>", "<0xFF>", "▁cat", "▁the", "<0xC3>", "<0xBC>"]
    )
    assert "".join(pieces_of(tokenizer, [5], [[token] for token in ids])) == "你\ufffd cat theü"


def test_a_broken_run_stays_broken_however_long_it_gets() -> None:
    """As decoding it at once has it, though its end alone would be text."""
    tokenizer = byte_fallback()
    ids = tokenizer.convert_tokens_to_ids(["▁cat", "<0xFF>", *["<0x41>"] * 200, "▁the"])
    for size in (1, 7, 300):
        assert "".join(pieces_of(tokenizer, [], cut(ids, [size] * len(ids)))) == tokenizer.decode(ids)


@pytest.mark.parametrize(
    "make", [byte_fallback, unigram, word_piece], ids=["byte fallback", "Unigram", "WordPiece"]
)
def test_the_space_after_special_tokens_stays(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    tokenizer = make()
    begin = tokenizer.bos_token_id
    the, cat = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("the", "cat"))
    assert "".join(pieces_of(tokenizer, [*the, *[begin] * 6], [cat])) == " cat"
    assert "".join(pieces_of(tokenizer, the, [cat, [begin], [begin], cat])) == " cat cat"
    assert "".join(pieces_of(tokenizer, [begin], [cat])) == "cat"


def test_a_character_that_the_prompt_has_begun_is_completed(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("👋")["input_ids"]
    for i in range(1, len(ids)):
        assert "".join(pieces_of(tokenizer, ids[:i], cut(ids[i:], []))) == "👋"
