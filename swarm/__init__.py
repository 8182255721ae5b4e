"""What every node of the swarm shares: identity, records, directory, messages, transport, models, speculation."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("specswarm")
except PackageNotFoundError:  # run from a checkout that was never installed
    VERSION = "0"

PROTOCOL = 6
"""The version of what nodes say to each other; it moves whenever one of the last could not make sense of it any more.

Messages and announcements depend on it, and with them the names of the protocols. What does not, so that nodes of
different versions see each other: the DHT's keys and calls, a record's envelope and, from version 6 on, its signature.
"""
