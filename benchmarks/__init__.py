"""Benchmarks of the swarm, and the lab of real links that they and the failure tests run on."""
