"""`make bench-simulator`: how near the simulator comes to the lab, how fast it is, and what it answers."""
