"""One client: it drafts, has the chain verify, and yields text.

    from client import SwarmModel

    with SwarmModel.connect("MODEL", initial_peers=["/ip4/..."], draft="DRAFT") as model:
        print(model.generate("def fibonacci(n):", max_new_tokens=64).text)

`api` is what a script sees, `generation` the loop, `drafting` the three drafters, `routing` the choice of a chain,
`session` one chain opened, `chain` the chain that mends itself, `model` what is known of the target.
"""

from client.api import AsyncSwarmModel, SwarmModel
from client.generation import Result

__all__ = ["AsyncSwarmModel", "Result", "SwarmModel"]
