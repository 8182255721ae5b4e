"""How the embedded model pair is made: corpus, tokenizer, target, draft, and the measurements on its model card.

Nothing in here is needed to run the swarm, except `training.arithmetic`, whose problems the benchmarks use as prompts.
"""
