"""Models on the hub: asked once what a revision holds, then for each file when it is needed.

Where the hub is out of reach, or is not to be asked (HF_HUB_OFFLINE), its cache on this machine has the same to say of
what was fetched: the commit of a branch or tag, the files of a commit, and by a large file's name in it its hash.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of whichever httpx the hub client uses
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from swarm.errors import UsageError
from swarm.model.files import CONFIG, weights_hash

log = logging.getLogger("specswarm")

_CONNECT_SECONDS, _ANSWER_SECONDS = 3.0, 10.0  # after that the cache must do
_FAILURES = (HTTPError, OSError, ValueError, KeyError)
"""Of a call to the hub: no connection, an answer that says no, an answer of something that is not the hub."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A hub repository's files at one commit."""

    repo: str
    commit: str
    folder: Path
    """In the hub's cache: what was fetched so far."""
    stated: Mapping[str, str | None] | None = field(repr=False, compare=False)
    """Every file of the commit, with its SHA-256 if it is a large one, by the hub; None if that was out of reach."""

    @classmethod
    def find(cls, repo: str, revision: str | None) -> Snapshot:
        """Of a branch, a tag or a commit. Raises UsageError if there is no such model, or none in reach."""
        try:
            commit, stated = _ask(repo, revision)
        except HFValidationError as error:
            raise UsageError(f"no folder {repo!r}, and it cannot be a hub id (owner/model)") from error
        except RevisionNotFoundError as error:
            raise UsageError(f"{repo} has no revision {revision!r}: give a branch, a tag or a commit") from error
        except _FAILURES as error:
            return cls._cached(repo, revision or "main", error)
        if CONFIG in stated:  # under the revision's own name, so that the cache knows later what that was
            commit, at_first = _fetch(repo, CONFIG, revision).parent.name, commit
            stated = stated if commit == at_first else _ask(repo, commit)[1]
        return cls(repo, commit, _storage(repo) / "snapshots" / commit, stated)

    @classmethod
    def _cached(cls, repo: str, revision: str, error: Exception) -> Snapshot:
        """What the cache has of a revision, for the hub answered with `error`. Raises UsageError if that is nothing."""
        commit, reason = _cached_commit(_storage(repo), revision), _reason(error)
        folder = _storage(repo) / "snapshots" / (commit or "")
        if commit is None or not (folder / CONFIG).is_file():
            at = "" if revision == "main" else f" at {revision!r}"
            raise UsageError(f"no folder {repo!r}, none{at} in the hub's cache, and {reason}") from error
        level = logging.INFO if isinstance(error, OfflineModeIsEnabled) else logging.WARNING
        log.log(level, "%s is taken from the hub's cache, commit %s: %s", repo, commit[:7], reason)
        return cls(repo, commit, folder, None)

    @property
    def pretrained(self) -> str:
        """The hub id, or the cache's folder where the hub is out of reach."""
        return str(self.folder) if self.stated is None else self.repo

    def has(self, name: str) -> bool:
        """Whether it is in the commit, or in the cache where the hub is out of reach."""
        return (self.folder / name).is_file() if self.stated is None else name in self.stated

    def names(self) -> Collection[str]:
        """All files of the commit, or those in the cache where the hub is out of reach."""
        return {path.name for path in self.folder.iterdir()} if self.stated is None else self.stated.keys()

    def file(self, name: str) -> Path | None:
        """Where it lies in the cache, fetched if need be. Raises UsageError."""
        if not self.has(name):
            return None
        return self.folder / name if self.stated is None else _fetch(self.repo, name, self.commit)

    def sha256(self, name: str) -> str | None:
        """By the hub's own word, or the cache's; computed for a small file."""
        stated = (self.stated or {}).get(name)
        if stated is not None:
            return stated
        path = self.file(name)
        return None if path is None else _blob_hash(path) or weights_hash(path)


def _ask(repo: str, revision: str | None) -> tuple[str, dict[str, str | None]]:
    """The commit of a revision, and its files with the hashes of the large ones; at once or not at all."""
    patience = (_CONNECT_SECONDS, _ANSWER_SECONDS, _ANSWER_SECONDS, _ANSWER_SECONDS)
    found = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=patience)  # type: ignore[arg-type]
    if found.sha is None:
        raise ValueError("the answer names no commit")
    files = {entry.rfilename: entry.lfs.sha256 if entry.lfs else None for entry in found.siblings or []}
    return found.sha, files


def _fetch(repo: str, name: str, revision: str | None) -> Path:
    """A file of the hub's cache, fetched if it is not there."""
    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except _FAILURES as error:
        raise UsageError(f"cannot fetch {name} of {repo}: {_reason(error)}") from error


def _storage(repo: str) -> Path:
    """The folder of the hub's cache for a repository."""
    return Path(constants.HF_HUB_CACHE).expanduser() / f"models--{repo.replace('/', '--')}"


def _cached_commit(storage: Path, revision: str) -> str | None:
    """What a branch, a tag or the beginning of a commit stands for, by the cache."""
    references = storage / "refs"
    reference = references / revision
    if reference.is_file() and reference.resolve().is_relative_to(references.resolve()):
        return reference.read_text(encoding="utf-8").strip()
    is_commit = re.fullmatch("[0-9a-f]{4,40}", revision) is not None
    found = [path.name for path in (storage / "snapshots").glob(f"{revision}*")] if is_commit else []
    return found[0] if len(found) == 1 else None


def _blob_hash(path: Path) -> str | None:
    """The hash by which the cache calls the content of a large file; None for others."""
    if not path.is_symlink():
        return None
    blob = path.readlink()  # one step of the way: the blob may be a link itself, to what models share
    return blob.name if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name) else None


def _reason(error: Exception) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids to ask the hub"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such model, or none that you may see"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = str(error).strip().split("\n")[0][:120]
    return f"the hub is out of reach ({text or type(error).__name__})"
