"""One peer: it holds a span of a model's layers and runs them for whoever's round arrives.

`node` is its life, `placement` chooses the span, `service` answers messages, `session` and `table` are what it knows
of each client's chain, `batching` and `worker` bring rounds onto the torch thread, `compute` is what happens there,
`links` carries the results on, `pace` keeps measuring how fast the stage is.
"""
