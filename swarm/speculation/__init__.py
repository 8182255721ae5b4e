"""Speculation without I/O: noise, sampling and acceptance, the same code at the drafter and at the last peer."""
