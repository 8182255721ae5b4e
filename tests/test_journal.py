"""The file of a generation: what is read back is what was written, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.config import GenerationConfig
from client.journal import Journal
from swarm.errors import UsageError

OPTIONS = GenerationConfig(max_new_tokens=9, temperature=0.7, seed=(1 << 63) - 1)


def begun(path: Path) -> Path:
    journal = Journal.begin(path, "f" * 64, [1, 2, 3], OPTIONS)
    journal.write([4, 5])
    journal.write([6])
    return path


def test_what_was_written_is_read_back_and_gone_on_with(tmp_path: Path) -> None:
    path = begun(tmp_path / "text")
    for tokens in ([4, 5, 6], [4, 5, 6, 7]):
        journal = Journal.read(path)
        assert journal is not None
        assert (journal.prompt, journal.tokens, journal.fingerprint) == ([1, 2, 3], tokens, "f" * 64)
        assert GenerationConfig.model_validate(journal.options) == OPTIONS
        journal.write([7])


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = begun(tmp_path / "text")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        journal = Journal.read(path)
        if journal is None:
            assert b"\n" not in whole[:size]
            continue
        assert journal.tokens == [4, 5, 6][: len(journal.tokens)]
        journal.write([8])
        again = Journal.read(path)
        assert again is not None
        assert again.tokens == [*journal.tokens, 8]


def test_a_file_that_is_not_there_yet_is_no_journal(tmp_path: Path) -> None:
    assert Journal.read(tmp_path / "none") is None


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b"{}\n",
        b'{"specswarm": 2, "fingerprint": "", "prompt": [], "options": {}}\n',
        b"\xff\xfe\n",
        b"[1]\n",
        b"a secret",
        b'{"specs": 1}',
    ],
)
def test_another_file_is_refused_and_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="other"):
        Journal.read(path)
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--resume"):
        Journal.begin(tmp_path / "no folder" / "text", "f" * 64, [1], OPTIONS)
    with pytest.raises(UsageError):
        Journal.read(tmp_path)
