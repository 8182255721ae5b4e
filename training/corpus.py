"""What the pair learns from, split into training and held-out documents, as token arrays.

Three domains: the standard library's source as installed (without its tests and tables), the training part of GSM8K
where the file is present, and generated arithmetic. Whole documents are held out, chosen by a hash of their name.
Tokenised once and cached; batches are drawn by a seeded generator, each domain with its share.
"""

import hashlib
import json
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerFast

from training.arithmetic import Split, drills, problems
from training.tokenizer import END_OF_TEXT, train_tokenizer

Tokens = npt.NDArray[np.uint16]

DOMAINS = ("code", "gsm8k", "arithmetic")
NUM_DRILLS = 20_000
GSM8K = Path("../shared/data/gsm8k_train.jsonl")  # relative to the repository; optional, never committed
NUM_ARITHMETIC = {"train": 50_000, "heldout": 1_000}
HELDOUT_SHARE = 25  # one file or GSM8K problem in so many
LONG = 1024  # tokens; a window may also start inside documents longer than this ...
START_EVERY = 64  # ... at each so many tokens

_SKIPPED_FOLDERS = frozenset(
    {"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "_bundled", "lib2to3", "__phello__"}
)


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a domain; `name` decides, by its hash, whether it is held out."""

    domain: str
    split: Split
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """One domain's split: all documents end to end, and where training windows may start."""

    tokens: Tokens  # [num_tokens], each document closed by the end-of-text token
    starts: npt.NDArray[np.int64]  # [num_starts]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The tokenised corpus: parts by (domain, split); a domain whose source is absent is missing."""

    tokenizer: PreTrainedTokenizerFast
    parts: dict[tuple[str, Split], Part]

    def batch(
        self, rng: np.random.Generator, mix: Mapping[str, float], num_rows: int, num_tokens: int
    ) -> torch.Tensor:
        """Random training windows, int64 [num_rows, num_tokens], every row from one domain, drawn by its share."""
        domains = [domain for domain in mix if (domain, "train") in self.parts]
        weights = np.array([mix[domain] for domain in domains])
        drawn = rng.choice(domains, size=num_rows, p=weights / weights.sum())
        return torch.stack([window(self.parts[str(domain), "train"], rng, num_tokens) for domain in drawn])


def window(part: Part, rng: np.random.Generator, num_tokens: int) -> torch.Tensor:
    """One random window of a part, int64 [num_tokens]; a window past the end goes on at the beginning."""
    start = rng.choice(part.starts)
    indices = np.arange(start, start + num_tokens) % len(part.tokens)
    return torch.from_numpy(part.tokens[indices].astype(np.int64))


def load_corpus(folder: Path, seed: int) -> Corpus:
    """The corpus cached in `folder`, which is built there first if need be."""
    if not (folder / "corpus.json").exists():
        _build(folder, seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    names = json.loads((folder / "corpus.json").read_text())
    parts = {(domain, split): _load_part(folder / f"{domain}-{split}.npz") for domain, split in names}
    return Corpus(tokenizer, parts)


def read_documents(seed: int) -> Iterator[Document]:
    """Every document of every domain, in a fixed order."""
    yield from _read_code()
    yield from _read_gsm8k(GSM8K)
    for split, count in NUM_ARITHMETIC.items():
        for problem in problems(seed, count, split):  # type: ignore[arg-type]
            yield Document("arithmetic", split, "", problem.prompt + problem.solution)  # type: ignore[arg-type]
    for text in drills(seed, NUM_DRILLS):
        yield Document("drills", "train", "", text)


def _read_code() -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if _SKIPPED_FOLDERS.isdisjoint(name.parts):
            text = path.read_text(encoding="utf-8", errors="replace")
            yield Document("code", _split_of(str(name)), str(name), text)


def _read_gsm8k(path: Path) -> Iterator[Document]:
    """The problems in the same "Q: .. A: .. The answer is N." form as the generated ones, calculations kept."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        answer = record["answer"].replace("\n#### ", "\nThe answer is ")
        text = f"Q: {record['question']}\nA: {answer}.\n"
        yield Document("gsm8k", _split_of(record["question"]), "", text)


def _split_of(name: str) -> Split:
    digest = hashlib.sha256(name.encode()).digest()
    return "heldout" if int.from_bytes(digest[:4], "big") % HELDOUT_SHARE == 0 else "train"


def _build(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    documents = list(read_documents(seed))
    tokenizer = train_tokenizer(d.text for d in documents if d.split == "train" and _teaches_merges(d))
    tokenizer.save_pretrained(folder)
    names = sorted({(d.domain, d.split) for d in documents})
    for domain, split in names:
        texts = [d.text + END_OF_TEXT for d in documents if (d.domain, d.split) == (domain, split)]
        _save_part(folder / f"{domain}-{split}.npz", tokenizer(texts)["input_ids"])
    (folder / "corpus.json").write_text(json.dumps(names))


def _teaches_merges(document: Document) -> bool:
    """Arithmetic repeats the same few words, which would crowd the vocabulary: a twentieth of it is enough."""
    return document.domain in ("code", "gsm8k") or _split_of(document.text) == "heldout"


def _save_part(path: Path, rows: list[list[int]]) -> None:
    bounds = np.cumsum([0, *(len(row) for row in rows)])
    tokens = np.concatenate([np.array(row, dtype=np.uint16) for row in rows])
    np.savez(path, tokens=tokens, starts=np.concatenate([_starts(a, b) for a, b in pairwise(bounds)]))


def _starts(begin: int, end: int) -> npt.NDArray[np.int64]:
    """A document's beginning, and in a long one every so many tokens up to near its end."""
    last = max(begin + 1, end - START_EVERY) if end - begin > LONG else begin + 1
    return np.arange(begin, last, START_EVERY, dtype=np.int64)


def _load_part(path: Path) -> Part:
    with np.load(path) as arrays:
        return Part(arrays["tokens"], arrays["starts"])
