"""The embedded pair and the code that made it; no training beyond a few steps of a tiny model."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from swarm.embedded import DRAFT, TARGET
from training.arithmetic import Problem, answer_of, problems, split_of
from training.corpus import Corpus, Part, window
from training.distil import distillation_losses
from training.evaluate import num_rounds
from training.generate import continue_greedily, repeated_share, repeats
from training.loop import train_for
from training.optimiser import PairOptimiser
from training.pretrain import next_token_loss
from training.record import Phase, Plan, add_phase, read_phases
from training.repair import NUM_PROMPT, unwanted
from training.schedule import scale_at


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(TARGET)


@pytest.fixture
def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, eos_token_id=0, **sizes))


def steps_of(problem: Problem) -> list[str]:
    return problem.solution.strip().split("\n")[:-1]


def test_every_equation_in_a_solution_holds() -> None:
    for problem in problems(seed=1, count=300, split="train"):
        for step in steps_of(problem):
            sides = [eval(side) for side in step.rstrip(".").split("=")]  # noqa: S307
            assert len(set(sides)) == 1, step
        assert sides[-1] == problem.answer


def test_a_problem_has_two_or_three_steps_and_its_answer_can_be_read_back() -> None:
    for problem in problems(seed=2, count=300, split="heldout"):
        assert len(steps_of(problem)) in (2, 3)
        assert answer_of(problem.solution) == problem.answer


def test_answer_of_a_text_without_one_is_none() -> None:
    assert answer_of("The answer is unclear.") is None


def test_problems_follow_from_their_arguments() -> None:
    assert problems(3, 20, "train") == problems(3, 20, "train") != problems(4, 20, "train")


def test_train_and_heldout_share_no_expression() -> None:
    def expressions(split: str) -> set[str]:
        found = problems(5, 2000, split)  # type: ignore[arg-type]
        return {
            p.prompt[len("Q: What is ") : p.prompt.index("?")] for p in found if p.prompt.startswith("Q: What is 1")
        }

    assert not expressions("train") & expressions("heldout")
    assert {split_of(expression) for expression in expressions("heldout")} == {"heldout"}


@pytest.mark.parametrize("text", ["def f(x):\n\treturn x  # ok\n\n\n", "naïve 😀 \r\n  ", "12 + 345 = 357.", " "])
def test_tokenizer_gives_back_the_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_digit_is_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [token for token in tokenizer.tokenize("x = 1234") if token.isdigit()] == ["1", "2", "3", "4"]


def test_the_pair_shares_tokenizer_and_end_token(tokenizer: PreTrainedTokenizerFast) -> None:
    target, draft = (AutoModelForCausalLM.from_pretrained(path) for path in (TARGET, DRAFT))
    assert AutoTokenizer.from_pretrained(DRAFT).get_vocab() == tokenizer.get_vocab()
    for model in (target, draft):
        assert model.dtype == torch.float32
        assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert target.config.num_hidden_layers >= 8
    assert 0.1 <= draft.num_parameters() / target.num_parameters() <= 0.2


def test_the_target_solves_heldout_problems_and_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    target, num_right = AutoModelForCausalLM.from_pretrained(TARGET), 0
    for problem in problems(seed=6, count=10, split="heldout"):
        prompt = tokenizer(problem.prompt, return_tensors="pt")
        written = target.generate(**prompt, max_new_tokens=192, do_sample=False, pad_token_id=0)[0]
        assert written[-1] == tokenizer.eos_token_id
        num_right += answer_of(tokenizer.decode(written)) == problem.answer
    assert num_right >= 8


def test_the_card_states_the_licences_and_the_record_the_phases() -> None:
    card = (TARGET.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Apache License 2.0" in card and "Copyright (c) 2021 OpenAI" in card
    assert {phase.name for phase in read_phases(TARGET.parent)} >= {"target", "draft"}


def test_the_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in TARGET.parent.rglob("*.safetensors")) < 40e6


def test_schedule_rises_stays_and_anneals_to_zero() -> None:
    assert scale_at(0.0) == 0.0
    assert scale_at(0.3) == 1.0
    assert scale_at(0.99) < 0.03
    assert scale_at(1.0) == scale_at(1.5) == 0.0


def test_repeats_mark_the_end_of_every_ngram_seen_before() -> None:
    assert repeats([1, 2, 1, 2, 1], order=2) == [False, False, False, True, True]
    assert repeated_share([1, 2, 1, 2, 1], order=2) == 0.5
    assert repeated_share([1], order=2) == 0.0


def test_only_generated_tokens_of_looping_rows_are_unwanted() -> None:
    rng = random.Random(0)
    loop, varied = [1, 2] * 64, rng.sample(range(10_000), 128)
    mask = unwanted(torch.tensor([loop, varied]))
    assert not mask[:, :NUM_PROMPT].any() and not mask[1].any()
    assert mask[0, NUM_PROMPT:].all()


def test_rounds_end_with_the_first_wrong_guess() -> None:
    assert num_rounds([True] * 9, look_ahead=8) == 1
    assert num_rounds([True, False, True, True], look_ahead=8) == 2
    assert num_rounds([False] * 3, look_ahead=8) == 3


def test_greedy_continuation_is_that_of_full_forward_passes(tiny: LlamaForCausalLM) -> None:
    prompts = torch.tensor([[1, 2, 3], [4, 5, 6]])
    written, expected = continue_greedily(tiny, prompts, 4), prompts
    for _ in range(4):
        expected = torch.cat([expected, tiny(expected).logits[:, -1:].argmax(-1)], dim=1)
    assert written.tolist() == expected.tolist()


def test_training_lowers_the_loss_and_saves_when_all_is_read(tiny: LlamaForCausalLM) -> None:
    batch, losses, saved = torch.arange(40).reshape(2, 20), list[float](), list[Phase]()

    def measure(progress: float) -> dict[str, torch.Tensor]:
        loss = next_token_loss(tiny, batch)
        losses.append(float(loss.detach()))
        return {"loss": loss}

    train_for(Plan("target", 0, 2000, {}), PairOptimiser(tiny), 40, measure, saved.append)
    assert losses[-1] < losses[0]
    assert saved[-1].num_tokens == 40 * len(losses) == 2000


def test_a_draft_equal_to_its_target_agrees_everywhere(tiny: LlamaForCausalLM) -> None:
    _, agreement = distillation_losses(tiny, tiny, torch.arange(40).reshape(2, 20))
    assert agreement == 1.0


def test_batches_follow_from_the_seed_and_wrap_at_the_end(tokenizer: PreTrainedTokenizerFast) -> None:
    part = Part(np.arange(10, dtype=np.uint16), np.array([8]))
    assert window(part, np.random.default_rng(0), 4).tolist() == [8, 9, 0, 1]
    corpus = Corpus(tokenizer, {("code", "train"): part})
    assert corpus.batch(np.random.default_rng(0), {"code": 0.1, "gsm8k": 0.9}, 2, 4).shape == (2, 4)


def test_a_phase_recorded_again_replaces_the_earlier_one(tmp_path: Path) -> None:
    for steps in (1, 2):
        add_phase(tmp_path, Phase("target", 0, {"code": 1.0}, 1.0, steps, 10, 2.0))
    assert [phase.num_steps for phase in read_phases(tmp_path)] == [2]
