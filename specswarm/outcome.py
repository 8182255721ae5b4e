"""How the command shows what a generation has come to."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from client.result import Result


def as_json(result: Result) -> dict[str, Any]:
    """The result's fields as JSON knows them."""
    fields = asdict(result)
    fields["chain"] = [{"peer_id": peer, "span": [span.start, span.end]} for peer, span in result.chain]
    return fields


def explanation(result: Result) -> str:
    """The model of cost as the generation has left it, and what it expects of the drafts that were sent."""
    cost, verdicts = result.cost, max(result.rounds, 1)
    trip, position, start, draft, token = (
        1e3 * seconds
        for seconds in (cost.trip_fixed, cost.trip_per_position, cost.start, cost.per_draft, cost.per_token)
    )
    return (
        f"a trip takes {trip:.1f} ms, {start:.1f} of them in its stages, and {position:.2f} for each of its tokens\n"
        f"a draft takes {draft:.2f} ms to work out; {result.drafted / verdicts:.1f} were sent for a verdict, "
        f"{result.accepted / verdicts:.2f} of them stood\n"
        f"a token takes {token:.1f} ms; without drafts it would take {trip + position:.1f} ms"
    )


_ENDS = {"stop": "by an end token", "length": "at max_new_tokens", "context": "where the model's context is full"}


def summary(result: Result) -> str:
    """One line."""
    per_trip = len(result.token_ids) / result.rounds if result.rounds else 0.0
    return (
        f"{len(result.token_ids)} tokens in {result.seconds:.2f} s: {result.tokens_per_second:.1f} tokens/s, "
        f"{per_trip:.2f} tokens per verdict over {len(result.chain)} peers"
        + (f", ended {_ENDS[reason]} ({reason})" if (reason := result.finish_reason) else "")
        + (f", drafted at peer {result.drafted_at}" if result.drafted_at else "")
        + (f", {result.reroutes} reroutes" if result.reroutes else "")
        + (f", {result.audits} audits" if result.audits else "")
        + (f", {result.audits_skipped} audits were not possible" if result.audits_skipped else "")
        + (f", {len(result.suspects)} peers left out" if result.suspects else "")
    )
