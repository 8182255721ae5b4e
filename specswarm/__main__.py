"""`python -m specswarm` is the command."""

from specswarm.cli import main

main()
