"""Lists of nodes by peer id, as a person writes them: whom a peer serves, whom a client uses."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated

from pydantic import AfterValidator

_PEER_ID = re.compile(r"(12D3Koo|16Uiu2|Qm)[1-9A-HJ-NP-Za-km-z]{40,50}")  # base58


def permits(peer_id: str, allow: Collection[str], deny: Collection[str]) -> bool:
    """Whether a node may take part: it is on the list of those allowed, unless that is empty, and not denied."""
    return peer_id not in deny and (not allow or peer_id in allow)


def _checked(text: str) -> str:
    if not _PEER_ID.fullmatch(text):
        raise ValueError(
            f"{text!r} is no peer id: it looks like 12D3Koo..., and `specswarm status` lists the peers'"
        )
    return text


PeerIds = tuple[Annotated[str, AfterValidator(_checked)], ...]
"""Peer ids in a configuration; a misspelt one would go unnoticed, so it is refused."""
