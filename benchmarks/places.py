"""The same generations drafted at the client and at a peer of the chain: what a link less is worth."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.deployment import Client, deployed, start_client
from benchmarks.lab import Lab

DELAY_MS = 25.0
CLIENTS: dict[str, dict[str, Any]] = {
    "client": {"draft": "embedded-draft", "draft_at": "client"},
    "peer": {"draft": "embedded-draft", "draft_at": "peer"},
    "auto": {"draft": "embedded-draft"},
    "client, prompt lookup": {"draft": "ngram", "draft_at": "client"},
    "auto, prompt lookup": {"draft": "ngram"},
}
"""By name, the options of a client."""


def run(spans: Sequence[str], texts: Sequence[str], tokens: int, folder: Path) -> dict[str, dict[str, float]]:
    """Of each client, tokens per second, and the share of its texts that a peer drafted; they take turns, prompt by
    prompt. Raises ValueError if their texts differ."""
    folder.mkdir()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in CLIENTS}
    first = len(spans) + 1
    draft = ["--draft", "embedded-draft"]
    with (
        Lab(hosts=first + len(CLIENTS), delay_ms=DELAY_MS) as lab,
        deployed(lab, "embedded", spans, folder, options=draft) as (initial_peers, own),
        ExitStack() as others,
    ):
        clients = [own, *(_client(others, lab, host) for host in range(first + 1, first + len(CLIENTS)))]
        for client, options in zip(clients, CLIENTS.values(), strict=True):
            client.connect(model="embedded", initial_peers=initial_peers, threads=1, **options)
        for text in texts:
            for client, made in zip(clients, results.values(), strict=True):
                made.append(client.generate(text, max_new_tokens=tokens))
    reference = [one["token_ids"] for one in results["client"]]
    for name, made in results.items():
        if [one["token_ids"] for one in made] != reference:
            raise ValueError(f"{name}: another text than the client's own")
    return {name: _figures(made) for name, made in results.items()}


def _client(stack: ExitStack, lab: Lab, host: int) -> Client:
    client = start_client(partial(lab.popen, host))
    stack.callback(client.close)
    return client


def _figures(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    tokens = sum(len(one["token_ids"]) for one in results)
    return {
        "tokens_per_second": tokens / sum(one["seconds"] for one in results),
        "drafted_at_a_peer": sum(one["drafted_at"] is not None for one in results) / len(results),
    }
