"""How one generation draws its tokens: its options, and where they are silent, what the model's own files say."""

from __future__ import annotations

import secrets

import msgspec

from client.config import GenerationConfig
from swarm.errors import UsageError
from swarm.model.defaults import GenerationDefaults
from swarm.speculation.processors import MAX_LENGTH, NONE, Processors
from swarm.speculation.sampling import Sampling


def completed(options: GenerationConfig, defaults: GenerationDefaults) -> GenerationConfig:
    """The options with a seed, and with the model's own values where they do not say otherwise."""
    own = dict(defaults.processors)
    own_penalty = own.pop("repetition_penalty", 1.0)
    values = {
        "seed": secrets.randbelow(1 << 63) if options.seed is None else options.seed,
        "repetition_penalty": own_penalty if options.repetition_penalty is None else options.repetition_penalty,
        "processors": {**own, **options.processors},
        "eos_token_id": defaults.eos_token_id if options.eos_token_id is None else options.eos_token_id,
    }
    return options.model_copy(update=values)


def sampling_of(options: GenerationConfig, prompt_tokens: int, vocab_size: int) -> Sampling:
    """The sampling of complete options, for a text after a prompt of so many tokens. Raises UsageError."""
    penalty = 1.0 if options.repetition_penalty is None else options.repetition_penalty
    try:
        processors = msgspec.convert({**options.processors, "repetition_penalty": penalty}, Processors)
    except msgspec.ValidationError as error:
        raise UsageError(f"processors: {error}") from None
    sampling = Sampling(
        options.temperature,
        options.top_k,
        options.top_p,
        options.seed or 0,
        processors if processors != NONE else None,
        prompt_tokens,
        min(prompt_tokens + options.max_new_tokens, MAX_LENGTH),
        options.eos_token_id or (),
    )
    if sampling.top_token >= vocab_size:
        raise UsageError(f"token {sampling.top_token} is not in the vocabulary of {vocab_size}")
    return sampling
