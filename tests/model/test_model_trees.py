"""A tree draft gives every node what its path alone would give, in families that treat attention differently."""

from __future__ import annotations

from pathlib import Path

import model_zoo as zoo
import pytest
import torch

from swarm.model.loading import load_stage
from swarm.span import Span

FAMILIES = ["llama", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "gpt_neox"]
# full attention, sliding windows, soft caps, sinks, latent keys, partial rotary embeddings

#             0
#         1       2
#       3   4     5
#       6         7
#                 8
PARENTS = (-1, 0, 0, 1, 1, 2, 3, 5, 7)
PATHS = [(0, 1, 3, 6), (0, 1, 4), (0, 2, 5, 7, 8)]
WIDE = (-1, *[0] * 12, *range(1, 13))
"""More nodes than the attention of few tokens takes: twelve branches of two."""


def make_chain(family: str, folder: Path, spans: tuple[Span, ...] = (Span(0, 2), Span(2, 5))) -> zoo.Chain:
    source = zoo.save(zoo.build(family), folder)
    return zoo.Chain([load_stage(source, span) for span in spans])


def path_to(node: int, parents: tuple[int, ...]) -> list[int]:
    path = [node]
    while parents[path[0]] >= 0:
        path.insert(0, parents[path[0]])
    return path


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix_length", [0, 3, 20])
def test_every_node_of_a_tree_equals_its_path_run_alone(family: str, prefix_length: int, tmp_path: Path) -> None:
    chain = make_chain(family, tmp_path)
    prefix, nodes = zoo.random_ids(prefix_length, seed=1), zoo.random_ids(len(PARENTS), seed=2)
    if prefix_length:
        chain.run((0, prefix))
    (in_tree,) = chain.run((prefix_length, nodes, PARENTS))
    for path in PATHS:
        (alone,) = zoo.Chain(chain.stages).run((0, torch.cat([prefix, nodes[list(path)]])))
        assert (in_tree[list(path)] - alone[prefix_length:]).abs().max() <= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_wide_tree_equals_each_path_run_alone(family: str, tmp_path: Path) -> None:
    chain = make_chain(family, tmp_path)
    prefix, nodes = zoo.random_ids(9, seed=1), zoo.random_ids(len(WIDE), seed=2)
    chain.run((0, prefix))
    (in_tree,) = chain.run((9, nodes, WIDE))
    for leaf in range(13, 25):
        path = path_to(leaf, WIDE)
        (alone,) = zoo.Chain(chain.stages).run((0, torch.cat([prefix, nodes[path]])))
        assert (in_tree[path] - alone[9:]).abs().max() <= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_text_goes_on_from_the_kept_path_of_a_tree(family: str, tmp_path: Path) -> None:
    chain = make_chain(family, tmp_path)
    prefix, nodes, rest = (zoo.random_ids(n, seed) for n, seed in ((9, 1), (len(PARENTS), 2), (6, 3)))
    chain.run((0, prefix))
    kept = [0, 2, 5, 7]
    (in_tree,) = chain.run((9, nodes, PARENTS))
    chain.compact(0, 9, kept)
    (after,) = chain.run((13, rest))
    (alone,) = zoo.Chain(chain.stages).run((0, torch.cat([prefix, nodes[kept], rest])))
    assert (torch.cat([in_tree[kept], after]) - alone[9:]).abs().max() <= 1e-4


def test_trees_of_several_sessions_share_a_round_with_a_prefill(tmp_path: Path) -> None:
    source = zoo.save(zoo.build("mistral"), tmp_path)
    stage = load_stage(source, Span(0, 5))
    chain, ids = zoo.Chain([stage], sessions=3), zoo.random_ids(30, seed=4)
    chain.run((0, ids[:11]), (0, ids[:5]), (0, ids[:1]))
    packed = chain.run((11, ids[11:20], PARENTS), (5, ids[2:11], PARENTS), (1, ids[1:]))
    apart = zoo.Chain([stage], sessions=3)
    apart.run((0, ids[:11]), (0, ids[:5]), (0, ids[:1]))
    for session, piece in enumerate([(11, ids[11:20], PARENTS), (5, ids[2:11], PARENTS), (1, ids[1:])]):
        single = zoo.Chain([stage])
        single.caches[0][0] = apart.caches[0][session]
        (expected,) = single.run(piece)  # type: ignore[arg-type]
        assert (packed[session] - expected).abs().max() <= 1e-4


def test_a_second_root_branches_right_after_the_cache(tmp_path: Path) -> None:
    chain = make_chain("llama", tmp_path, (Span(0, 5),))
    prefix, nodes = zoo.random_ids(6, seed=1), zoo.random_ids(3, seed=2)
    chain.run((0, prefix))
    (in_tree,) = chain.run((6, nodes, (-1, -1, 1)))
    (alone,) = zoo.Chain(chain.stages).run((0, torch.cat([prefix, nodes[1:]])))
    assert (in_tree[1:] - alone[6:]).abs().max() <= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_that_grows_in_pieces_equals_the_whole(family: str, tmp_path: Path) -> None:
    chain = make_chain(family, tmp_path)
    grown = zoo.Chain(chain.stages)
    prefix, nodes = zoo.random_ids(9, seed=1), zoo.random_ids(len(PARENTS), seed=2)
    for each in (chain, grown):
        each.run((0, prefix))
    (whole,) = chain.run((9, nodes, PARENTS))
    pieces = [grown.run((9, nodes[a:b], PARENTS[:b]))[0] for a, b in ((0, 1), (1, 2), (2, 6), (6, 9))]
    assert (torch.cat(pieces) - whole).abs().max() <= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_branch_that_was_kept_grows_on(family: str, tmp_path: Path) -> None:
    chain = make_chain(family, tmp_path)
    prefix, nodes = zoo.random_ids(9, seed=1), zoo.random_ids(len(PARENTS), seed=2)
    chain.run((0, prefix))
    (whole,) = chain.run((9, nodes[:7], PARENTS[:7]))
    chain.compact(0, 9, [0, 1, 3, 4, 6])  # text goes on by 0 and 1, of which 3 and 4 are children, and 6 is of 3
    more = zoo.random_ids(2, seed=3)
    (after,) = chain.run((11, more, (-1, -1, 0, 2, 1)))
    for path, leaf, row in (((0, 1, 3, 6), 0, after[0]), ((0, 1, 4), 1, after[1])):
        text = torch.cat([prefix, nodes[list(path)], more[leaf : leaf + 1]])
        (alone,) = zoo.Chain(chain.stages).run((0, text))
        assert (row - alone[-1]).abs().max() <= 1e-4
        assert (whole[path[-1]] - alone[-2]).abs().max() <= 1e-4
