"""What every node of the swarm shares: identity, records, directory, messages, transport, models, speculation."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("specswarm")
except PackageNotFoundError:  # run from a checkout that was never installed
    VERSION = "0"
