"""Every served family, cut in three and with sessions packed, computes what transformers' whole model computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import model_zoo as zoo
import pytest
import torch

from swarm.errors import ModelUnsupported
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Slice
from swarm.span import Span

SPANS = (Span(0, 2), Span(2, 3), Span(3, 5))


def assert_same(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert (got - expected).abs().max() <= 1e-4
    assert torch.equal(got.argmax(-1), expected.argmax(-1))


def check_family(model: Any, source: ModelSource, *, is_flat: bool = True) -> None:
    """Two packed sessions of different lengths, prefilled in chunks; one has a draft rejected and rolled back.

    `is_flat`: whether the family's code makes the same torch calls for every round.
    """
    chain = zoo.Chain([load_stage(source, span) for span in SPANS], sessions=2)
    assert [stage.is_flat for stage in chain.stages] == [is_flat] * len(SPANS)
    one, two, rejected = zoo.random_ids(40, seed=1), zoo.random_ids(33, seed=2), zoo.random_ids(5, seed=3)
    got: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])

    def advance(first: tuple[int, torch.Tensor], second: tuple[int, torch.Tensor], keep: tuple[int, int]) -> None:
        for outputs, logits, count in zip(got, chain.run(first, second), keep, strict=True):
            outputs.append(logits[:count])

    advance((0, one[:17]), (0, two[:4]), (17, 4))
    advance((17, one[17:18]), (4, two[4:24]), (1, 20))
    draft = torch.cat([one[18:20], rejected])
    advance((18, draft), (24, two[24:25]), (2, 1))  # five drafts are rejected, and the next round writes over them
    advance((20, one[20:24]), (25, two[25:32]), (4, 7))
    advance((24, one[24:40]), (32, two[32:33]), (16, 1))
    assert_same(torch.cat(got[0]), zoo.whole_logits(model, one))
    assert_same(torch.cat(got[1]), zoo.whole_logits(model, two))
    check_breaks(model, chain, one)


def check_breaks(model: Any, chain: zoo.Chain, text: torch.Tensor) -> None:
    """Rounds of two other sessions within a pass of each stage: before the attention of its last layer, and after."""
    caches = [(stage.new_cache(), stage.new_cache()) for stage in chain.stages]
    values, breaks = ([text[:5]], [text[:6]]), Counter[int]()

    def between(number: int) -> None:
        stage = chain.stages[number]
        left = 2 * len(stage.span) - 1 - breaks[number]
        breaks[number] += 1
        if left < 2:
            given = values[left][-1]
            values[left].extend(stage.forward([Slice(caches[number][left], 0, given, num_logits=len(given))]))

    logits, _ = chain.run((0, text), (0, text[:9]), between=between)
    assert_same(logits, zoo.whole_logits(model, text))
    for own in values:
        assert_same(own[-1], zoo.whole_logits(model, own[0]))
    assert breaks == {number: 2 * len(stage.span) for number, stage in enumerate(chain.stages)}


@pytest.mark.parametrize("family", zoo.SERVED)
def test_three_spans_with_packed_sessions_equal_the_whole_model(family: str, tmp_path: Path) -> None:
    model = zoo.build(family)
    check_family(model, zoo.save(model, tmp_path))


@pytest.mark.parametrize("family", ["llama", "mixtral", "gemma3_text"])
def test_tied_embeddings_serve_as_the_head_of_the_last_span(family: str, tmp_path: Path) -> None:
    model = zoo.build(family, zoo.SERVED[family] | {"tie_word_embeddings": True})
    check_family(model, zoo.save(model, tmp_path))


def test_untied_embeddings_of_a_family_that_ties_by_default(tmp_path: Path) -> None:
    model = zoo.build("gemma2", zoo.SERVED["gemma2"] | {"tie_word_embeddings": False})
    check_family(model, zoo.save(model, tmp_path))


def test_rope_that_changes_with_length_ends_the_model_at_the_length_where_it_would(tmp_path: Path) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    settings = zoo.BASE | {"rope_parameters": rope, "original_max_position_embeddings": 64}
    model = zoo.build("phi3", settings)
    source = zoo.save(model, tmp_path)
    assert source.info.max_positions == 64
    check_family(model, source, is_flat=False)  # its code asks for the length in every round


@pytest.mark.parametrize("family", zoo.REFUSED)
def test_family_that_cannot_be_served_is_refused_with_the_reason(family: str, tmp_path: Path) -> None:
    settings, reason = zoo.REFUSED[family]
    source = zoo.save(zoo.build(family, settings), tmp_path)
    with pytest.raises(ModelUnsupported, match=reason):
        load_stage(source, Span(0, 5))


def test_encoder_decoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5", "num_layers": 5, "d_model": 32}')
    with pytest.raises(ModelUnsupported, match="encoder-decoder"):
        load_stage(ModelSource.resolve(str(tmp_path)), Span(0, 1))


def test_model_type_unknown_to_transformers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_family"}')
    with pytest.raises(ModelUnsupported, match="no_such_family"):
        ModelSource.resolve(str(tmp_path))
