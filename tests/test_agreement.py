"""The benchmark of agreement by shared noise: its formulas against the noise itself, and the walk along a text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks import agreement, report
from benchmarks.bar import check
from swarm.speculation.sampling import Sampling, choose, contest

logits = st.lists(st.floats(-8, 8), min_size=7, max_size=7).map(torch.tensor)


@settings(max_examples=200, deadline=None)
@given(logits, logits)
def test_expected_agreement_keeps_its_bounds_and_is_symmetric(one: torch.Tensor, other: torch.Tensor) -> None:
    p, q = one.double().softmax(-1), other.double().softmax(-1)
    most = agreement.overlap(p, q)
    expected = agreement.expected_agreement(p, q)
    assert most / (2 - most) - 1e-9 <= expected <= most + 1e-9
    assert expected == pytest.approx(agreement.expected_agreement(q, p))
    assert agreement.expected_agreement(p, p) == pytest.approx(1)


def test_choices_with_shared_noise_agree_as_often_as_expected() -> None:
    torch.manual_seed(3)
    target, draft = 2 * torch.randn(12), 2 * torch.randn(12)
    p, q = target.double().softmax(-1), draft.double().softmax(-1)
    equal = 0
    for seed in range(3000):
        sampling = Sampling(1.0, seed=seed)
        equal += choose(target[None], [1], [], sampling) == contest(draft, [1], sampling, 1)[0]
    assert equal / 3000 == pytest.approx(agreement.expected_agreement(p, q), abs=0.03)


def test_rows_are_of_every_kind_and_of_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "TEMPERATURES", (0.8,))
    rows = agreement.run({"code": ["import os\n", "def f(x):\n"], "arithmetic": ["Q: 3 + 4\nA:"]}, tokens=12)
    assert [row.kind for row in rows] == ["code", "arithmetic", agreement.ALL]
    assert rows[-1].positions == rows[0].positions + rows[1].positions <= 36
    assert all(0 < row.expected < row.overlap < 1 and row.apart <= 1 for row in rows)
    (outcome,) = check((agreement.GAP,), agreement.figures(rows))
    assert outcome.measured == pytest.approx(abs(rows[-1].overlap - rows[-1].shared))
    console = Console(width=200, record=True)
    console.print(report.agreement_table(rows))
    assert "arithmetic" in console.export_text()
