"""What a chain lacks when hops are gone, and from where its text must be given again. Pure.

Its law: a hop whose session is open holds, up to where the last verdict left the trunk of its drafts, exactly the text.
For all that a hop admits of a verdict's rounds agrees with the text there, and no verdict comes before every hop has
admitted its round.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from client.routing import Hop
from swarm.span import Span
from swarm.wire import MAX_AHEAD, Progress


@dataclass(frozen=True, slots=True)
class Gap:
    """Neighbouring hops `start..end` of a chain, to be replaced together: they served `span`."""

    start: int
    end: int
    span: Span


def gaps(hops: Sequence[Hop], lost: Collection[str]) -> list[Gap]:
    """The stretches of hops whose peers are lost, from the first to the last."""
    found: list[Gap] = []
    for i, hop in enumerate(hops):
        if hop.contact.peer_id not in lost:
            continue
        if found and found[-1].end == i:
            before = found.pop()
            found.append(Gap(before.start, i + 1, Span(before.span.start, hop.span.end)))
        else:
            found.append(Gap(i, i + 1, hop.span))
    return found


def resume_points(reports: Sequence[Progress | None], limit: int, judged: int = 0) -> list[int]:
    """From which position on each hop must be given its input (again).

    `reports` is what each hop says of itself, None for a new one. One that has not taken the round `judged`, on which
    there is a verdict, has begun anew since. From position `limit` on everything is sent anew in any case. Whoever
    lacks rows gets them from the hop before, out of what that one has kept; where that does not reach back far enough,
    or is more than a hop takes at once, that hop must compute them again, and so on upwards: what the client sends
    anew, it sends in parts.
    """
    points = [0] * len(reports)
    needed = limit
    for i in reversed(range(len(reports))):
        report = reports[i]
        if report is not None and report.taken > judged:
            points[i] = min(report.held, limit)
            if needed < report.kept or limit - needed > MAX_AHEAD:
                points[i] = min(points[i], needed)
        needed = points[i]
    return points


def stuck_at(reports: Sequence[Progress], number: int) -> int:
    """The first hop that has not passed on the round of verdict `number`; the last hop, if all say they have."""
    for i, report in enumerate(reports):
        if report.taken <= number or report.waiting:
            return i
    return len(reports) - 1
