"""The learning-rate schedule: every run ends annealed."""

WARMUP = 0.02  # share of the tokens spent rising
DECAY = 0.45  # share of the tokens spent falling to zero at the end


def scale_at(progress: float) -> float:
    """The factor on the learning rate, 0..1, after `progress` (0..1) of the tokens.

    Warm-up, stable, then a linear decay to zero (Hu et al. 2024, arXiv 2404.06395).
    """
    rising = progress / WARMUP
    falling = (1.0 - progress) / DECAY
    return max(0.0, min(1.0, rising, falling))
