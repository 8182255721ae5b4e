"""Gumbel noise that depends on seed, position and token id alone.

A counter-based hash replaces the generator's state: whoever asks for the noise of a token at a position gets the same
bits, on any device, in any order, for any subset of the vocabulary. The target's peer and the drafter use it, which
raises their agreement (Daliri et al., arXiv 2408.07978), and a retry or another chain cannot change the text.
"""

from __future__ import annotations

from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: the step of splitmix64 (Steele et al., OOPSLA 2014)
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31


def gumbel(seed: int, position: int, ids: Tensor) -> Tensor:
    """Standard Gumbel noise for the tokens `ids` (int64, any shape) at one position; float64 of the same shape."""
    stream = _mix_int(_mix_int(seed & _MASK) ^ (position * _GOLDEN & _MASK))
    bits = _mixed((ids + 1).mul_(_signed(_GOLDEN)).add_(_signed(stream)))
    uniform = _shift(bits, 12).double().add_(0.5).mul_(2.0**-52)  # strictly between 0 and 1
    return uniform.log_().neg_().log_().neg_()


def uniform(seed: int, position: int, purpose: int) -> float:
    """A number strictly between 0 and 1 for one of a few purposes at a position; independent of the noise of tokens."""
    stream = _mix_int(_mix_int(seed & _MASK) ^ (position * _GOLDEN & _MASK))
    bits = _mix_int((stream - purpose * _GOLDEN) & _MASK)
    return ((bits >> 12) + 0.5) * 2.0**-52


def _mix_int(value: int) -> int:
    """splitmix64's finaliser on a Python integer."""
    for shift, factor in _MIX:
        value = (value ^ (value >> shift)) * factor & _MASK
    return value ^ (value >> _LAST_SHIFT)


def _mixed(bits: Tensor) -> Tensor:
    """The same on an int64 tensor, whose products wrap around modulo 2^64; in its place."""
    for shift, factor in _MIX:
        bits.bitwise_xor_(_shift(bits, shift)).mul_(_signed(factor))
    return bits.bitwise_xor_(_shift(bits, _LAST_SHIFT))


def _shift(bits: Tensor, count: int) -> Tensor:
    """Logical right shift: torch's own drags the sign bit along."""
    return (bits >> count).bitwise_and_((1 << (64 - count)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
