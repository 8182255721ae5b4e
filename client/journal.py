"""A generation's tokens in a file, as they come: if this program dies, another one takes the text up again.

Where all peers compute in float32, the text depends on prompt, sampling and seed alone, as far as was seen; elsewhere
it goes on as a text of the target. So one line says what they are, and a line for each verdict brings its tokens;
whatever was not written when the program died is simply generated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from client.config import GenerationConfig
from swarm.errors import UsageError
from swarm.user_files import read_bytes

_VERSION = 1


_START = b'{"specswarm":'
"""Of the first line, which may be torn as well."""


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line."""

    specswarm: int
    fingerprint: str
    """Of the target."""
    prompt: list[int]
    options: dict[str, Any]
    """Of the generation, the seed included."""


class Journal:
    """The file of one generation."""

    def __init__(self, path: Path, head: _Head, tokens: list[int]) -> None:
        self.path = path
        self.fingerprint = head.fingerprint
        self.prompt = head.prompt
        self.options: dict[str, Any] = dict(head.options)
        self.tokens = tokens
        """What was generated before."""

    @classmethod
    def begin(cls, path: Path, fingerprint: str, prompt: Sequence[int], options: GenerationConfig) -> Journal:
        """A new file. Raises UsageError if it cannot be written."""
        head = _Head(_VERSION, fingerprint, list(prompt), options.model_dump(exclude={"resume", "record"}))
        try:
            path.write_bytes(msgspec.json.encode(head) + b"\n")
            return cls(path, head, [])
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; choose another file for --resume") from None

    @classmethod
    def read(cls, path: Path) -> Journal | None:
        """The file of an earlier generation, to be gone on with; None if there is none yet.

        A last line that was torn is cut off. Raises UsageError if it is something else, or cannot be read.
        """
        try:
            content = read_bytes(path)
            whole = content[: content.rfind(b"\n") + 1]
            if not whole and content[: len(_START)] == _START[: len(content)]:
                return None
            first, *lines = (whole or content).splitlines()
            head = msgspec.json.decode(first, type=_Head)
            if head.specswarm != _VERSION:
                raise UsageError(f"{path} was written by another version of specswarm ({head.specswarm})")
            tokens = [token for line in lines for token in msgspec.json.decode(line, type=list[int])]
            if len(whole) < len(content):
                path.write_bytes(whole)
            return cls(path, head, tokens)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise UsageError(f"{path} is no record of a generation: choose another file for --resume") from None

    def write(self, tokens: Sequence[int]) -> None:
        """Append a verdict's tokens, before anybody has seen them. Raises UsageError if they cannot be kept."""
        try:
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(list(tokens)) + b"\n")
        except OSError as error:
            raise UsageError(f"{self.path}: {error.strerror}; go on with --resume when there is room") from None
