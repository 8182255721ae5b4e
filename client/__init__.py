"""One client: it drafts, has the chain verify, and yields text.

    from client import SwarmModel

    with SwarmModel.connect("MODEL", initial_peers=["/ip4/..."], draft="DRAFT") as model:
        print(model.generate("def fibonacci(n):", max_new_tokens=64).text)

`api` and `blocking` are what a script sees, `generation` is one text, `loop` its rounds, `elsewhere` the same at a peer
that drafts, `routing` and `shortest` the choice of a chain, `routes` those of one text, `session` one chain opened,
`chain` the chain that mends itself, `target` what is known of the swarm.
"""

from client.api import AsyncSwarmModel
from client.blocking import SwarmModel
from client.result import Result

__all__ = ["AsyncSwarmModel", "Result", "SwarmModel"]
