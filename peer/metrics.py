"""What a peer counts for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ROUNDS = Counter("specswarm_peer_rounds", "Rounds that were run.")
LAYER_TOKENS = Counter("specswarm_peer_layer_tokens", "Tokens that were run, times the layers they went through.")
COMPUTE_SECONDS = Counter("specswarm_peer_compute_seconds", "Time that rounds took; those of a batch share theirs.")
STALE = Counter("specswarm_peer_stale_rounds", "Rounds of a tree that was given up: not run, or not passed on.")
FAILURES = Counter("specswarm_peer_failures", "Rounds that came to nothing by this peer's own fault.")
REFUSALS = Counter("specswarm_peer_refusals", "Requests that were refused, by reason.", ["why"])
REPLAYED_BYTES = Counter("specswarm_peer_replayed_bytes", "Hidden states that were passed on again.")
SAVED_BYTES = Counter("specswarm_peer_saved_bytes", "Bytes less that were sent because hidden states were packed.")
LINKS_LOST = Counter("specswarm_peer_links_lost", "Streams to next peers that broke.")
LINKS = Gauge("specswarm_peer_links", "Ways to next peers that are open, or being opened.")
SESSIONS = Gauge("specswarm_peer_sessions", "Open sessions.")
FREE_TOKENS = Gauge(
    "specswarm_peer_free_tokens", "Tokens, through all layers, for which there is cache memory left."
)
