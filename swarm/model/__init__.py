"""Layers of a language model, run for many sessions at once, with no code for any one family.

The story of a span, file by file:

    source       names a model: its configuration, tokenizer, weight files and fingerprint
    files        what a folder holds, what a model's files are to look like, and what is wrong with them
    hub          a repository's files at one commit: of the hub, or of its cache where that is out of reach
    fingerprint  the hash that two nodes share only if their models are the same
    checkpoint   fetches the shards that a span needs, finds its tensors, refuses what it cannot use
    layers       carves the layers [a, b) out of transformers' own model class
    loading      builds the carved model without memory, then reads in just its tensors
    quantize     turns linear layers into int8 or nf4 as they arrive
    selfcheck    runs a few tokens and refuses a family that cannot be served exactly
    cache        keeps the keys and values of one session, by slot
    attention    the attention function of every layer: each session attends to its own cache
    flat         turns a forward pass into one flat function of torch calls, the same bits in less time
    stage        what the rest of the program holds: `Stage.forward` of packed `Slice`s

A stage is one hop of the chain; a drafter is a stage that happens to hold all layers.
"""
