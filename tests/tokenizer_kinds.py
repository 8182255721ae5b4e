"""Tokenizers of every kind, made here: each with special tokens, and with added ones that are not special."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

UNKNOWN, BEGIN, END, TURN, TOOL = "<unk>", "<s>", "</s>", "<|im_end|>", "<tool>"
LINES = [
    "the cat sat on the mat and the dog on the log",
    "def print(name): return name",
    "grüße über alles",
    "你好世界 😀😀 👋🏽 x",
    "don't . , ! it's",
] * 10
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def wrap(tokenizer: Tokenizer, unknown: str | None = None, *, adds_begin: bool = False) -> PreTrainedTokenizerFast:
    """As transformers has it; `adds_begin`: a text's tokens begin with BEGIN."""
    tokenizer.add_special_tokens([BEGIN, END, TURN])
    tokenizer.add_tokens([AddedToken(TOOL, normalized=False)])
    if adds_begin:
        begin = (BEGIN, tokenizer.token_to_id(BEGIN))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, **({"unk_token": unknown} if unknown else {})
    )


def byte_level(*, splits: bool = False, adds_begin: bool = False) -> PreTrainedTokenizerFast:
    """BPE over bytes, as GPT-2 has it, or `splits` by an expression, as tiktoken does."""
    tokenizer = Tokenizer(models.BPE())
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not splits)
    words = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes]) if splits else to_bytes
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    return wrap(tokenizer, adds_begin=adds_begin)


def byte_fallback(*, adds_begin: bool = False) -> PreTrainedTokenizerFast:
    """BPE over characters, as Llama 2 has it; what is not in the vocabulary is bytes."""
    letters = sorted({*"".join(LINES[:2]).replace(" ", "▁")})
    words = ["th", "the", "▁the", "▁c", "▁ca", "▁cat"]
    vocabulary = {token: i for i, token in enumerate([UNKNOWN, BEGIN, END, *BYTES, *letters, *words])}
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "c"), ("▁c", "a"), ("▁ca", "t")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrap(tokenizer, UNKNOWN, adds_begin=adds_begin)


def unigram() -> PreTrainedTokenizerFast:
    """As SentencePiece has it: its special tokens are pieces like others."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    specials = [UNKNOWN, BEGIN, END]
    tokenizer.train_from_iterator(
        LINES,
        trainers.UnigramTrainer(vocab_size=100, special_tokens=specials, unk_token=UNKNOWN, show_progress=False),
    )
    return wrap(tokenizer, UNKNOWN)


def word_piece() -> PreTrainedTokenizerFast:
    """As BERT has it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    tokenizer.train_from_iterator(
        LINES, trainers.WordPieceTrainer(vocab_size=120, special_tokens=[UNKNOWN], show_progress=False)
    )
    return wrap(tokenizer, UNKNOWN)


def word_level() -> PreTrainedTokenizerFast:
    """Whole words, special tokens among them; it has no decoder."""
    words = [UNKNOWN, BEGIN, END, TURN, "the", "cat", "\ufffd", "hello", ".", "", "a"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return wrap(tokenizer, UNKNOWN)


def with_suffixes() -> PreTrainedTokenizerFast:
    """BPE that marks the end of a word."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=150, special_tokens=[UNKNOWN], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return wrap(tokenizer, UNKNOWN)


KINDS: dict[str, Callable[[], Any]] = {
    "byte-level BPE": byte_level,
    "tiktoken": lambda: byte_level(splits=True),
    "BPE with byte fallback": byte_fallback,
    "Unigram": unigram,
    "WordPiece": word_piece,
    "words": word_level,
    "suffixes": with_suffixes,
    "ByT5, in Python": ByT5Tokenizer,
}
