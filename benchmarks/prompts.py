"""What the benchmarks ask: code prompts, from a file or built in, and generated arithmetic with known answers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from training.arithmetic import problems

CODE = (
    'def read_json(path):\n    """Return the content of a JSON file."""\n',
    "class Stack:\n    def __init__(self):\n        self._items = []\n\n    def push(self, item):\n",
    "import os\nimport sys\n\ndef main(argv):\n",
    "def is_prime(n):\n    if n < 2:\n        return False\n",
    "    def test_equal(self):\n        self.assertEqual(",
    "try:\n    import threading\nexcept ImportError:\n",
    'def word_count(text):\n    """Count how often each word occurs in text."""\n',
    "class Error(Exception):\n    pass\n\nclass ParseError(Error):\n    def __init__(self, message",
    "def copy_file(source, destination):\n    with open(source, 'rb') as",
    "for name in sorted(os.listdir(directory)):\n    path = os.path.join(directory, name)\n    if",
)


def code(count: int, file: Path | None) -> list[str]:
    """The first `count` code prompts: of a HumanEval-style file (JSON lines with `prompt`, gzipped or not), or ours."""
    if file is None:
        return list(CODE[:count])
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        return [json.loads(line)["prompt"] for line, _ in zip(lines, range(count), strict=False)]


def questions(count: int, file: Path | None) -> list[str]:
    """The first `count` questions of a GSM8K-style file (JSON lines with `question`), as the embedded pair reads them;
    none without a file."""
    if file is None:
        return []
    with file.open() as lines:
        return [f"Q: {json.loads(line)['question']}\nA:" for line, _ in zip(lines, range(count), strict=False)]


def arithmetic(count: int) -> list[str]:
    """Problems that no training has seen."""
    return [problem.prompt for problem in problems(2026, count, "heldout")]


def long_code() -> str:
    """A code prompt of about 500 tokens of the embedded pair."""
    return ("".join(CODE) * 9)[:1500]
