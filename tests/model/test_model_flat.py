"""The flat form of a forward pass: the same numbers, or none at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from swarm.model.attention import Packed
from swarm.model.flat import Forward, Given, flat_form

HIDDEN = 8
SIZES = ((5, 2), (7, 3), (1, 1), (9, 5), (4, 0))  # tokens, and rows of the output


def rounds() -> Iterator[Given]:
    generator = torch.Generator().manual_seed(0)
    for tokens, num_rows in SIZES:
        inputs = torch.randn(1, tokens, HIDDEN, generator=generator)
        yield Packed([]), inputs, torch.arange(tokens)[None], torch.arange(num_rows)


class Layer(nn.Module):
    """Two products with something between; every call is counted."""

    def __init__(self, between: Callable[[Layer, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.calls = 0
        self._between = between

    def forward(self, packed: Packed, inputs: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = self.two(self._between(self, self.one(inputs)))[:, rows]
        return result


def form_of(between: Callable[[Layer, Tensor], Tensor]) -> tuple[Layer, Forward | None]:
    layer = Layer(between)
    return layer, flat_form(layer, layer, rounds)


@pytest.mark.parametrize(
    "between",
    [
        lambda layer, x: x,
        lambda layer, x: layer.norm(x).to(torch.float32).contiguous(),
        lambda layer, x: torch.cat(x.split(HIDDEN // 2, dim=-1)[::-1], dim=-1),
        lambda layer, x: x.view(1, x.shape[1], 2, -1).transpose(1, 2).reshape(1, 2 * x.shape[1], -1).view(x.shape),
        lambda layer, x: nn.functional.relu(x, inplace=True),
        lambda layer, x: x.add_(1),
        lambda layer, x: (x.__setitem__((..., 0), 0.0), x)[1],
        lambda layer, x: x.topk(HIDDEN, dim=-1)[0],
    ],
    ids=["nothing", "norm", "parts", "shapes", "in-place relu", "in-place add", "set", "several results"],
)
def test_the_same_torch_calls_for_every_round_have_a_flat_form(between: Callable[[Layer, Tensor], Tensor]) -> None:
    layer, flat = form_of(between)
    assert flat is not None
    calls = layer.calls
    got = [flat(*given) for given in rounds()]
    assert layer.calls == calls  # the model's own code no longer runs
    with torch.inference_mode():
        assert all(torch.equal(g, layer(*given)) for g, given in zip(got, rounds(), strict=True))


@pytest.mark.parametrize(
    "between",
    [
        lambda layer, x: x * x.max().item(),
        lambda layer, x: x if x.sum() > 0 else -x,
        lambda layer, x: sum(row for row in x[0])[None] + x,
        lambda layer, x: x.double().float() if x.shape[1] == 5 else x,
        lambda layer, x: x * 2 if x.shape[1] == 1 else x,
        lambda layer, x: x / (x.shape[1] - 1 or 1),
        lambda layer, x: x * layer.calls,
        lambda layer, x: x + torch.frombuffer(bytearray(4 * HIDDEN), dtype=torch.float32),
    ],
    ids=["item", "branch", "iteration", "calls", "single token", "arithmetic", "state", "foreign tensor"],
)
def test_anything_else_has_none(between: Callable[[Layer, Tensor], Tensor]) -> None:
    assert form_of(between)[1] is None
