"""The command `specswarm`: one module per verb, and the demo that runs them all."""
