"""Guessing how a text goes on: trees of drafts with the chance of each, before and while they are verified."""
