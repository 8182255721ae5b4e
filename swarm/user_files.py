"""Files that a user names: read whole, unless they have no end."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 64 << 20
"""More than any list of a model's files, journal or configuration has."""


def read_bytes(path: Path) -> bytes:
    """What a file holds, or a pipe. Raises OSError, also if that is more than MAX_BYTES: a device may give zeros for
    ever."""
    with path.open("rb") as file:
        return read_all(file, path)


def read_all(file: BinaryIO, name: object) -> bytes:
    """The rest of an open file, which errors call `name`. Raises OSError, as `read_bytes` does."""
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(name))
    return content
