"""A stage's forward pass as one flat function: the torch calls that transformers' code makes, and nothing between.

With few tokens, a layer's own Python (module calls, wrappers, keyword arguments) takes longer than its arithmetic. It
is the same in every round, so it is run twice, with different numbers of tokens, and what it asks of torch is
recorded; whatever differs between the two recordings must be one of these numbers, and becomes a parameter. What reads
values, keeps state or depends on more than the inputs cannot be recorded so, and the flat function must give the very
same numbers as the model on other inputs, or it is not used: a stage without one runs the model as it is.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from swarm.model.attention import Packed

log = logging.getLogger("specswarm")

Given = tuple[Packed, Tensor, Tensor, Tensor]
Forward = Callable[[Packed, Tensor, Tensor, Tensor], Tensor]
"""(round, inputs [1, tokens] or [1, tokens, hidden], positions [1, tokens], rows of the wanted logits) -> output."""

_PLAIN = (int, float, bool, str, type(None), type(...), torch.dtype, torch.device)
_ASKS = frozenset({"__get__", "__len__", "size", "dim", "numel", "is_floating_point", "is_contiguous"})
"""Calls that ask for a tensor's form. Others that give no tensor read its values, which a recording cannot know."""
_SET = "__setitem__"
_CONVERSIONS = frozenset({"to", "float", "type_as", "contiguous"})
_WRITES = "writes"
"""Of a node: it stays, whether its result is used or not."""


class Unrecordable(Exception):
    """The model does more than the same torch calls for every round."""


_MISFITS = (Unrecordable, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a model's code raises that cannot be run in this way."""


@dataclass(frozen=True, slots=True)
class Call:
    """One recorded call of a torch function."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    @property
    def name(self) -> str:
        """The function's own name."""
        return getattr(self.function, "__name__", "")


@dataclass(frozen=True, slots=True)
class Recording:
    """What one run was given, called, and gave. Keeps every tensor alive, so that none's id is used again."""

    given: Given
    calls: list[Call]
    output: Tensor

    @property
    def numbers(self) -> tuple[int, int]:
        """How many tokens, and how many rows of logits."""
        return self.given[2].shape[1], len(self.given[3])


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        call = Call(function, args, kwargs or {}, result)
        if next(_tensors(result), None) is not None or call.name == _SET:
            self.calls.append(call)
        elif call.name not in _ASKS and next(_tensors(args), None) is not None:
            raise Unrecordable(f"it calls {call.name}")
        return result


@torch.inference_mode()
def flat_form(model: nn.Module, forward: Forward, rounds: Callable[[], Iterator[Given]]) -> Forward | None:
    """The flat function of `forward`, which runs `model`, or None where there is none.

    `rounds` gives the same rounds whenever it is called, no two of one size: the first two are recorded, and on the
    others the flat function must prove itself.
    """
    try:
        recorded, theirs, ours = rounds(), rounds(), rounds()
        flat = flatten(model, record(forward, next(recorded)), record(forward, next(recorded)))
        for here, there in zip(ours, theirs, strict=True):
            if not torch.equal(flat(*here), forward(*there)):
                raise Unrecordable("the flat function gives other numbers")
    except _MISFITS as reason:
        log.debug("%s has no flat form: %s", type(model).__name__, reason)
        return None
    return flat


def record(forward: Forward, given: Given) -> Recording:
    """Run `forward` and note its torch calls. Raises Unrecordable."""
    with _Recorder() as recorder:
        output = forward(*given)
    return Recording(given, recorder.calls, output)


def flatten(model: nn.Module, one: Recording, two: Recording) -> Forward:
    """The flat function behind two recordings of `model` with different numbers. Raises Unrecordable."""
    if len(one.calls) != len(two.calls):
        raise Unrecordable("its calls depend on the number of tokens")
    writer = _Writer(model, one, two)
    for here, there in zip(one.calls, two.calls, strict=True):
        writer.add(here, there)
    return writer.finish()


class _Writer:
    """Merges two recordings into a graph whose inputs are the round's, the numbers, and the model's own tensors."""

    def __init__(self, model: nn.Module, one: Recording, two: Recording) -> None:
        self._one, self._two = one, two
        self._graph = fx.Graph()
        names = ("packed", "inputs", "positions", "rows")
        self._known = {
            id(thing): self._graph.placeholder(name) for name, thing in zip(names, one.given, strict=True)
        }
        self._numbers = [self._graph.placeholder(name) for name in ("num_tokens", "num_rows")]
        self._last_input = self._numbers[-1]
        self._lasting = {id(t) for t in (*model.parameters(), *model.buffers(), *model.modules())}
        self._constants: list[Any] = []

    def add(self, here: Call, there: Call) -> None:
        """Append one call, as it was recorded in both runs."""
        if here.function is not there.function:
            raise Unrecordable("its calls depend on the number of tokens")
        if here.name in _CONVERSIONS and here.result is here.args[0] and there.result is there.args[0]:
            return
        args = self._merge(here.args, there.args)
        node = self._graph.call_function(here.function, args, self._merge(here.kwargs, there.kwargs))
        is_in_place = any(here.result is tensor for tensor in _tensors(here.args))
        node.meta[_WRITES] = is_in_place or here.name in ("attend", _SET)  # attend writes into the caches
        if isinstance(here.result, Tensor):
            self._known.setdefault(id(here.result), node)
            return
        for i, part in enumerate(here.result or ()):
            if isinstance(part, Tensor):
                self._known[id(part)] = self._graph.call_function(operator.getitem, (node, i))

    def finish(self) -> Forward:
        """The function, once all calls are in."""
        self._graph.output(self._merge(self._one.output, self._two.output))
        self._graph.eliminate_dead_code(is_impure_node=_changes_something)
        forward = fx.GraphModule({}, self._graph).forward
        constants = tuple(self._constants)

        def run(packed: Packed, inputs: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
            output: Tensor = forward(packed, inputs, positions, rows, positions.shape[1], rows.shape[0], *constants)
            return output

        return run

    def _merge(self, here: Any, there: Any) -> Any:
        """An argument of both runs as one of the graph."""
        if id(here) in self._known:
            return self._known[id(here)]
        if isinstance(here, int) and here != there:
            return self._multiple(here, there)
        if isinstance(here, _PLAIN):
            if here != there:
                raise Unrecordable(f"a {type(here).__name__} changes from run to run")
            return here
        if isinstance(here, slice | Mapping | tuple | list):
            return self._merge_parts(here, there)
        return self._constant(here)

    def _merge_parts(self, here: Any, there: Any) -> Any:
        if isinstance(here, slice):
            return slice(*self._merge_parts(_ends(here), _ends(there)))
        if isinstance(here, Mapping):
            return {key: self._merge(value, there[key]) for key, value in here.items()}
        merged = [self._merge(*pair) for pair in zip(here, there, strict=True)]
        return merged if isinstance(here, list) else tuple(merged)

    def _multiple(self, here: int, there: int) -> fx.Node:
        """An integer that differs: one of the two numbers, or a multiple of it."""
        for node, one, two in zip(self._numbers, self._one.numbers, self._two.numbers, strict=True):
            times = here // one
            if (times * one, times * two) == (here, there):
                return node if times == 1 else self._graph.call_function(operator.mul, (node, times))
        raise Unrecordable("it computes with the number of tokens")

    def _constant(self, thing: Any) -> fx.Node:
        """A parameter, a buffer or a module of the model."""
        if id(thing) not in self._lasting:
            raise Unrecordable(f"a {type(thing).__name__} comes from nowhere")
        with self._graph.inserting_after(self._last_input):
            node = self._graph.placeholder(f"constant_{len(self._constants)}")
        self._last_input = self._known[id(thing)] = node
        self._constants.append(thing)
        return node


def _changes_something(node: fx.Node) -> bool:
    return node.op != "call_function" or node.meta.get(_WRITES, False)


def _ends(piece: slice) -> tuple[Any, Any, Any]:
    return piece.start, piece.stop, piece.step


def _tensors(value: Any) -> Iterator[Tensor]:
    """A tensor itself, or those in a tuple."""
    for part in value if isinstance(value, tuple | list) else (value,):
        if isinstance(part, Tensor):
            yield part
