"""What the failure lab holds the product to: each bar is a bound on one figure. Pure."""

from __future__ import annotations

from benchmarks.bar import Bar

EXACT = Bar("generations with the tokens of an undisturbed one", 100, "%", is_floor=True)
DISTURBED = Bar("runs in which what was planned was done", 100, "%", is_floor=True)
KILL_MEDIAN = Bar("a hop is killed: text stands still, median", 1.0, "s")
KILL_WORST = Bar("a hop is killed: text stands still, worst", 3.0, "s")
HUNG_WORST = Bar("a hop hangs: text stands still, worst", 5.0, "s")
DRAIN_WORST = Bar("a hop leaves: text stands still longer than for a trip, worst, in ordinary trips", 1.0, "trips")
MEND_BYTES = Bar("a hop is killed: more bytes sent and received by the client, beside drafts, worst", 8.0, "KiB")
RECOVERY = (EXACT, DISTURBED, KILL_MEDIAN, KILL_WORST, HUNG_WORST, DRAIN_WORST, MEND_BYTES)
"""Of parts 1 to 3."""

ATTACK_MESSAGES = Bar("messages to the handler that got the fewest", 10_000, "", is_floor=True)
ATTACK_EXACT = Bar("the honest client's generations with the right tokens", 100, "%", is_floor=True)
ATTACK_SPEED = Bar("its speed under attack, of that without", 80, "%", is_floor=True)
ATTACK_DEATHS = Bar("nodes that ended", 0, "")
ATTACK_MEMORY = Bar("the largest peer's memory, of what it may take", 100, "%")
ATTACK = (ATTACK_MESSAGES, ATTACK_EXACT, ATTACK_SPEED, ATTACK_DEATHS, ATTACK_MEMORY)
"""Of part 4."""

SOAK_EXACT = Bar("generations with the right tokens", 100, "%", is_floor=True)
SOAK_DEATHS = Bar("peers killed or told to stop, a minute", 2.0, "", is_floor=True)
SOAK_MEMORY = Bar("growth of memory, the program with the most", 10, "%")
SOAK_DESCRIPTORS = Bar("growth of descriptors, the program with the most", 20, "")
SOAK_THREADS = Bar("growth of threads, the program with the most", 10, "")
SOAK = (SOAK_EXACT, SOAK_DEATHS, SOAK_MEMORY, SOAK_DESCRIPTORS, SOAK_THREADS)
"""Of the soak."""

DECEIT_USED = Bar("generations with a liar in the chain at first", 100, "%", is_floor=True)
DECEIT_NOTICED = Bar("wrong texts of which the liar was reported", 100, "%", is_floor=True)
DECEIT_LEFT_OUT = Bar("liars with wrong results that were left out", 100, "%", is_floor=True)
DECEIT_EXACT = Bar("right texts where a liar sends nothing wrong", 100, "%", is_floor=True)
DECEIT_ACCUSED = Bar("honest peers that were left out", 0, "")
DECEIT_DEATHS = Bar("honest nodes that ended", 0, "")
DECEIT_LATE = Bar("speed of the text after one beside a late peer, of that without, median", 80, "%", is_floor=True)
DECEIT = (DECEIT_USED, DECEIT_NOTICED, DECEIT_LEFT_OUT, DECEIT_EXACT, DECEIT_ACCUSED, DECEIT_DEATHS, DECEIT_LATE)
"""Of part 5."""

STRANGERS_EXACT = Bar("honest generations with the right tokens", 100, "%", is_floor=True)
STRANGERS_SPEED = Bar("their speed beside one kind, of the undisturbed, least", 80, "%", is_floor=True)
STRANGERS_SPEED_ALL = Bar("their speed beside all kinds, of the undisturbed", 60, "%", is_floor=True)
STRANGERS_BLAMED = Bar("honest peers that were left or blamed", 0, "")
STRANGERS_DEATHS = Bar("nodes that ended in it", 0, "")
STRANGERS_MEMORY = Bar("most memory of a node, of what it may take", 100, "%")
STRANGERS_DESCRIPTORS = Bar("descriptors more than before, a minute after, the node with the most", 0, "")
STRANGERS_HELD = Bar("tasks, streams or links more than before, a minute after, the node with most", 0, "")
STRANGERS_SEEN = Bar("kinds of which the log of an attacked node tells", 100, "%", is_floor=True)
STRANGERS = (
    STRANGERS_EXACT,
    STRANGERS_SPEED,
    STRANGERS_SPEED_ALL,
    STRANGERS_BLAMED,
    STRANGERS_DEATHS,
    STRANGERS_MEMORY,
    STRANGERS_DESCRIPTORS,
    STRANGERS_HELD,
    STRANGERS_SEEN,
)
"""Of part 6."""
