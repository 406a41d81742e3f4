"""Optimizer: parameter groups, their hyperparameters, and the state kept for each parameter.

A step reads its hyperparameters through `hyper` and `option`, never from the group itself. Both give the plain
value, unless somebody who records the step (the tracer) has installed another reader: then `hyper` may give a
tensor in the number's place, so that a recorded step follows a learning rate that changes, and `option` tells the
recorder what the recording depends on.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, Protocol

import numpy as np

from graphc.composed import LEAST, house
from graphc.errors import ArgumentError, StateError
from graphc.nn.parameter import clear_grad
from graphc.ops.elementwise import astype
from graphc.primitive import Value
from graphc.records import enable_grad, no_grad
from graphc.tensor import Tensor, as_tensor, wrap


class ParamGroup(dict[str, Any]):
    """Parameters that share their hyperparameters: {"params": [...], "lr": 0.1, ...}. Equal only to itself."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


class Reader(Protocol):
    """Who reads hyperparameters. key: a name, or for one of a tuple (name, position)."""

    def number(self, group: ParamGroup, key: str | tuple[str, int]) -> Value:
        """A number that enters the arithmetic: a float, or a 0-d tensor that stands for it."""

    def option(self, group: ParamGroup, name: str, test: Callable[[Any], Any]) -> Any:
        """test(value), on which the step's course depends."""

    def unwatched(self) -> AbstractContextManager[None]:
        """While graphc's own updates run: they read what they read through this reader, and call no other code."""


class PlainReader:
    """Gives what the group holds."""

    def number(self, group: ParamGroup, key: str | tuple[str, int]) -> Value:
        """The group's number."""
        if isinstance(key, str):
            return group[key]
        name, position = key
        return group[name][position]

    def option(self, group: ParamGroup, name: str, test: Callable[[Any], Any]) -> Any:
        """The group's option."""
        return test(group[name])

    def unwatched(self) -> AbstractContextManager[None]:
        """Nobody watches."""
        return nullcontext()


# (parameter, what is kept for it already) -> the tensor that is kept
Slot = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


class _State(threading.local):
    """The reader in force, for each thread: one may trace while others train."""

    reader: Reader = PlainReader()


_state = _State()


def install(reader: Reader) -> Reader:
    """Let `reader` read this thread's hyperparameters from now on; returns the one before, to be installed again."""
    before, _state.reader = _state.reader, reader
    return before


def hyper(group: ParamGroup, name: str, position: int | None = None) -> Value:
    """A number of the group (one of a tuple, such as betas, by its position) for the step's arithmetic."""
    return _state.reader.number(group, name if position is None else (name, position))


def option(group: ParamGroup, name: str, test: Callable[[Any], Any] = bool) -> Any:
    """What the course of the step depends on: by default whether the hyperparameter is other than 0 or False."""
    return _state.reader.option(group, name, test)


def weak(number: Value, p: Tensor) -> Value:
    """`number` as an operand beside `p`: a 0-d tensor takes p's dtype, others become Python's, which are weak.

    Numbers are computed in float64 and rounded once, here, where they meet the parameter.
    """
    return astype(number, p.dtype) if isinstance(number, Tensor) else float(number)


# Slots are made of numbers, not by operations: also within a trace they are tensors that outlive it.


def buffer(p: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """A slot of zeros of p's shape and dtype."""
    return wrap(np.zeros(p.shape, p.dtype.numpy))


def counter(p: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """A slot that counts steps: float64[], exact to 2**53."""
    return wrap(np.zeros((), np.float64))


class Optimizer:
    """Base class of optimizers. Subclasses define slots(), update() and check().

    params: tensors that require a gradient, or dicts {"params": tensors, option: value, ...}.
    defaults: the options of groups that don't give them.

    param_groups: list of ParamGroup, whose options may be changed between steps.
    state: for each parameter a dict of tensors, made when the parameter is added, so that every step finds the same.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], defaults: Mapping[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise ArgumentError("an optimizer takes an iterable of parameters, not one tensor: write [parameter]")
        self.defaults = dict(defaults)
        self.param_groups: list[ParamGroup] = []
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        entries: list[Any] = list(params)
        if not entries:
            raise ArgumentError("an optimizer needs parameters, got none; was model.parameters() already used up?")
        for group in entries if isinstance(entries[0], dict) else [{"params": entries}]:
            self.add_param_group(group)

    # ------------------------------------------------------------------------------------ for subclasses

    def slots(self, group: ParamGroup) -> Mapping[str, Slot]:
        """What is kept for each parameter of this group: name -> how it is made before the first step."""
        raise NotImplementedError

    def update(self, group: ParamGroup, p: Tensor, grad: Tensor, state: dict[str, Tensor]) -> None:
        """Change p and state in place by one step along grad. Runs without tape."""
        raise NotImplementedError

    def check(self, group: Mapping[str, Any]) -> None:
        """Raise ArgumentError for a hyperparameter outside its range."""
        raise NotImplementedError

    # --------------------------------------------------------------------------------------------- users

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Optimize more parameters. group: {"params": tensors, and options other than the defaults}.

        Raises ArgumentError for a parameter that is there already, isn't a leaf that requires a gradient, or for
        an option that this optimizer doesn't have or that is out of range.
        """
        unknown = [name for name in group if name != "params" and name not in self.defaults]
        if unknown:
            have = ", ".join(self.defaults)
            raise ArgumentError(f"{type(self).__name__} has no option {unknown[0]!r}; it has {have}")
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        known = set(map(id, self.state))
        for p in params:
            if not isinstance(p, Tensor):
                raise ArgumentError(f"an optimizer takes tensors, got {type(p).__name__}")
            if not (p.requires_grad and p.is_leaf):
                what = "is the result of an operation" if p.requires_grad else "doesn't require a gradient"
                raise ArgumentError(f"a tensor of shape {p.shape} can't be optimized: it {what}")
            if id(p) in known:
                raise ArgumentError(f"a parameter of shape {p.shape} is given twice")
            known.add(id(p))
        made = ParamGroup({"params": params} | self.defaults | {k: v for k, v in group.items() if k != "params"})
        self.check(made)
        self.param_groups.append(made)
        self._complete_state(made)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every parameter's gradient, or fill it with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                clear_grad(p, set_to_none)

    def step(self, closure: Callable[[], Value] | None = None) -> Value | None:
        """One update of every parameter that has a gradient. closure: computes the loss anew, which is returned."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with no_grad():
            for group in self.param_groups:
                self._complete_state(group)
            runner = house.runner if self._composed() else None
            if runner is None or not runner.step(self):
                with _state.reader.unwatched() if self._own() else nullcontext():
                    self.advance()
        return loss

    def advance(self) -> None:
        """Update every parameter that has a gradient, one after the other. Runs without tape."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(group, p, p.grad, self.state[p])

    def _own(self) -> bool:
        """Whether the updates are graphc's own."""
        kind = type(self)
        return kind.advance is Optimizer.advance and kind.update.__module__.startswith("graphc.")

    def _composed(self) -> bool:
        """Whether the updates may run as one kernel: they are graphc's own, which consist of operations alone, and
        there is enough to do."""
        return (
            self._own() and sum([math.prod(p.shape) for group in self.param_groups for p in group["params"]]) >= LEAST
        )

    def _complete_state(self, group: ParamGroup) -> None:
        """Make what is missing: everything for new parameters, a buffer when an option is switched on later."""
        slots = self.slots(group)
        for p in group["params"]:
            own = self.state.setdefault(p, {})
            for name, make in slots.items():
                if name not in own:
                    own[name] = make(p, own)

    # -------------------------------------------------------------------------------------- state dicts

    def state_dict(self) -> dict[str, Any]:
        """{"state": {parameter's number: {name: tensor}}, "param_groups": [options and parameters' numbers]}.

        Tensors share memory with the optimizer's. The layout is PyTorch's.
        """
        number = {id(p): k for k, p in enumerate(p for group in self.param_groups for p in group["params"])}
        groups = [
            {name: value for name, value in group.items() if name != "params"}
            | {"params": [number[id(p)] for p in group["params"]]}
            for group in self.param_groups
        ]
        state = {number[id(p)]: {k: t.detach() for k, t in own.items()} for p, own in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over options and, in place, the tensors that state_dict() gave for the same parameters.

        What isn't in it starts anew. Raises StateError, with nothing changed, if groups, numbers of parameters,
        options or shapes differ, and ArgumentError for an option that is out of range.
        """
        groups = [dict(group) for group in state_dict["param_groups"]]
        numbers = [group.pop("params") for group in groups]
        ours, theirs = [len(group["params"]) for group in self.param_groups], [len(n) for n in numbers]
        if ours != theirs:
            raise StateError(f"the state is for groups of {theirs} parameters, the optimizer has groups of {ours}")
        wrong = [
            f"group {k} has the unknown option {name!r}"
            for k, g in enumerate(groups)
            for name in g
            if name not in self.defaults
        ]
        params = dict(zip(chain(*numbers), chain(*(group["params"] for group in self.param_groups)), strict=True))
        new = {n: {name: as_tensor(value) for name, value in kept.items()} for n, kept in state_dict["state"].items()}
        for number, kept in new.items():
            for name, value in kept.items():
                if number not in params:
                    wrong.append(f"no group holds parameter {number}")
                elif value.shape not in ((), params[number].shape):
                    wrong.append(f"parameter {number}: {name} is {value.shape}, the parameter {params[number].shape}")
        if wrong:
            raise StateError(f"the state doesn't fit {type(self).__name__}:\n  " + "\n  ".join(wrong))
        for mine, options in zip(self.param_groups, groups, strict=True):
            self.check({**mine, **options})
        with no_grad():
            for mine, options in zip(self.param_groups, groups, strict=True):
                mine.update(options)
            for number, p in params.items():
                own, kept = self.state[p], new.get(number, {})
                for name in [name for name in own if name not in kept]:
                    del own[name]
                for name, value in kept.items():
                    target = own.setdefault(name, counter(p, own) if value.ndim == 0 and p.ndim else buffer(p, own))
                    target.copy_(astype(value, target.dtype))
            for group in self.param_groups:
                self._complete_state(group)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return "\n".join([*lines, ")"])


def check_range(group: Mapping[str, Any], name: str, low: float, high: float = math.inf) -> None:
    """Raise ArgumentError unless low <= group[name] < high."""
    if not low <= group[name] < high:
        raise ArgumentError(
            f"{name}={group[name]} must be at least {low}" + (f" and below {high}" if high < math.inf else "")
        )
