"""Generated word problems and expressions of two or three steps, with exact answers written out.

A problem is a chain: a first number (or a product of a number and a digit), to which numbers under 100 are added
or from which they are taken. No intermediate result is negative. Each step is written the way one does it in the
head, tens first:

    Q: Mia has 23 apples. She buys 45 more apples. She gives away 12 of them. How many apples does Mia have now?
    A: 23 + 45 = 23 + 40 + 5 = 63 + 5 = 68.
    68 - 12 = 68 - 10 - 2 = 58 - 2 = 56.
    The answer is 56.

Pure and seeded; the training and the held-out split never share an expression, whatever the words around it.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "heldout"]

HELDOUT_SHARE = 10  # one expression in so many is held out
LARGEST_PRODUCT = 300
_EXPRESSION_SHARE = 0.25  # of all problems; the others are told as a story
_PRODUCT_SHARE = 0.3


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_SHE = _words(
    "Mia Anna Sara Lena Ruth Olivia Zoe Nina Clara Ines Maya Tara Julia Emma Rosa Ivy Laura Grace Hanna Kim"
)
_HE = _words("Tom Ben Paul Omar Leo Max Sam Noah Ivan Hugo Carl Amir Felix Jack Luis David Oscar Peter Ravi Finn")
_ITEMS = _words(
    "apples pears books coins cards stamps pencils marbles shells eggs cookies stickers flowers candles buttons "
    "oranges plates bottles tickets toys stones balloons beads cups letters photos peaches muffins keys crayons"
)
_BOXES = _words("boxes bags baskets jars trays packs")

_STARTS = (
    "{name} has {n} {items}.",
    "{name} starts with {n} {items}.",
    "There are {n} {items} on {name}'s table.",
    "In the morning {name} counts {n} {items}.",
    "{name} owns {n} {items}.",
)
_PRODUCT_STARTS = (
    "{name} has {d} {boxes} with {n} {items} each.",
    "{name} fills {d} {boxes} with {n} {items} in each.",
    "There are {d} {boxes} in {name}'s room, each with {n} {items}.",
)
_GAINS = (
    "{he} buys {n} more {items}.",
    "{he} finds {n} {items}.",
    "A friend gives {name} {n} {items}.",
    "Then {name} gets {n} more.",
    "{he} makes another {n} {items}.",
    "Later {n} {items} are added.",
    "{he} wins {n} {items} in a game.",
)
_LOSSES = (
    "{he} gives away {n} of them.",
    "{he} loses {n} {items}.",
    "{name} sells {n} {items}.",
    "Then {n} of the {items} are taken away.",
    "{he} throws out {n} old {items}.",
    "{name} lends {n} {items} to a friend.",
    "After that {he_low} drops {n} of them.",
)
_QUESTIONS = (
    "How many {items} does {name} have now?",
    "How many {items} are left in the end?",
    "How many {items} does {name} have in total?",
    "What is the number of {items} now?",
)
_EXPRESSION_QUESTIONS = (
    "What is {e}?",
    "Compute {e}.",
    "How much is {e}?",
    "Calculate {e}.",
    "Find the value of {e}.",
)

_ANSWER = re.compile(r"The answer is (-?\d+)\.")


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its worked answer; `prompt + solution` is the whole text, without the end-of-text token."""

    prompt: str
    solution: str
    answer: int


@dataclass(frozen=True, slots=True)
class _Chain:
    """`first * factor`, then each (sign, number) in turn; `factor` is 1 where there is no product."""

    first: int
    factor: int
    terms: tuple[tuple[str, int], ...]

    @property
    def expression(self) -> str:
        product = f"{self.first} * {self.factor}" if self.factor > 1 else f"{self.first}"
        return " ".join([product, *(f"{sign} {number}" for sign, number in self.terms)])


def problems(seed: int, count: int, split: Split) -> list[Problem]:
    """`count` problems with pairwise different prompts; the same arguments always give the same list."""
    rng = random.Random(f"{split} {seed}")  # noqa: S311
    found: dict[str, Problem] = {}
    while len(found) < count:
        chain = _draw_chain(rng)
        if split_of(chain.expression) == split:
            problem = _write(rng, chain)
            found.setdefault(problem.prompt, problem)
    return list(found.values())


def drills(seed: int, count: int) -> list[str]:
    """`count` texts of ten single steps each, for practice: the lines that solutions are made of, without a story."""
    rng = random.Random(f"drills {seed}")  # noqa: S311
    return ["".join(f"{_draw_step(rng)}\n" for _ in range(10)) for _ in range(count)]


def answer_of(text: str) -> int | None:
    """The number in the first "The answer is N." of a generated text, or None where there is none."""
    match = _ANSWER.search(text)
    return int(match[1]) if match else None


def split_of(expression: str) -> Split:
    """The split an expression such as "23 + 45 - 12" belongs to, decided by its hash alone."""
    digest = hashlib.sha256(expression.encode()).digest()
    return "heldout" if int.from_bytes(digest[:4], "big") % HELDOUT_SHARE == 0 else "train"


def _draw_chain(rng: random.Random) -> _Chain:
    first, factor = rng.randint(2, 99), 1
    if rng.random() < _PRODUCT_SHARE:
        factor = rng.randint(2, 9)
        first = rng.randint(2, min(99, LARGEST_PRODUCT // factor))
    num_steps = rng.randint(2, 3)
    total, terms = first * factor, []
    for _ in range(num_steps - (factor > 1)):
        sign = rng.choice("+-") if total > 2 else "+"
        number = rng.randint(2, 99) if sign == "+" else rng.randint(2, min(99, total))
        total += number if sign == "+" else -number
        terms.append((sign, number))
    return _Chain(first, factor, tuple(terms))


def _draw_step(rng: random.Random) -> str:
    chain = _draw_chain(rng)
    return rng.choice(_work_out(chain)[0])


def _write(rng: random.Random, chain: _Chain) -> Problem:
    as_expression = rng.random() < _EXPRESSION_SHARE
    question = rng.choice(_EXPRESSION_QUESTIONS).format(e=chain.expression) if as_expression else _story(rng, chain)
    lines, answer = _work_out(chain)
    solution = " " + "\n".join([*lines, f"The answer is {answer}.\n"])
    return Problem(f"Q: {question}\nA:", solution, answer)


def _story(rng: random.Random, chain: _Chain) -> str:
    he = rng.choice(("She", "He"))
    words = {
        "name": rng.choice(_SHE if he == "She" else _HE),
        "items": rng.choice(_ITEMS),
        "boxes": rng.choice(_BOXES),
        "he": he,
        "he_low": he.lower(),
    }
    starts = _PRODUCT_STARTS if chain.factor > 1 else _STARTS
    sentences = [rng.choice(starts).format(n=chain.first, d=chain.factor, **words)]
    for sign, number in chain.terms:
        sentences.append(rng.choice(_GAINS if sign == "+" else _LOSSES).format(n=number, **words))
    sentences.append(rng.choice(_QUESTIONS).format(**words))
    return " ".join(sentences)


def _work_out(chain: _Chain) -> tuple[list[str], int]:
    """One line per step, and the result."""
    lines, total = [], chain.first
    if chain.factor > 1:
        lines.append(_multiply(chain.first, chain.factor))
        total *= chain.factor
    for sign, number in chain.terms:
        lines.append(_add(total, sign, number))
        total += number if sign == "+" else -number
    return lines, total


def _multiply(number: int, factor: int) -> str:
    tens, ones = number - number % 10, number % 10
    middle = (
        f"{tens} * {factor} + {ones} * {factor} = {tens * factor} + {ones * factor} = " if tens and ones else ""
    )
    return f"{number} * {factor} = {middle}{number * factor}."


def _add(total: int, sign: str, number: int) -> str:
    tens, ones = number - number % 10, number % 10
    direction = 1 if sign == "+" else -1
    middle = (
        f"{total} {sign} {tens} {sign} {ones} = {total + direction * tens} {sign} {ones} = "
        if tens and ones
        else ""
    )
    return f"{total} {sign} {number} = {middle}{total + direction * number}."
