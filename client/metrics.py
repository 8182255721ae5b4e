"""What a client counts for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

TOKENS = Counter("specswarm_client_tokens", "Tokens that were generated.")
DRAFTED = Counter("specswarm_client_drafted", "Tokens that were drafted.")
ACCEPTED = Counter("specswarm_client_accepted", "Drafted tokens that stood.")
TRIP_SECONDS = Histogram(
    "specswarm_client_trip_seconds",
    "From sending a round to its verdict.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
LOST = Counter("specswarm_client_peers_lost", "Peers of a chain that went silent or broke.")
REFUSED = Counter("specswarm_client_refusals", "Peers of a chain that refused, by reason.", ["why"])
MENDED = Counter("specswarm_client_mends", "Peers of a chain that were replaced: lost ones, or such that left.")
STALL_SECONDS = Counter(
    "specswarm_client_stall_seconds", "By how much disturbed trips were longer than the others."
)
