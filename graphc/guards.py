"""What a traced function read from Python, and how a later call finds out that it has changed.

A trace freezes everything that isn't a tensor: numbers, flags, the length of a list, which object a name
means. While a function is traced, the Watcher notes each Python function that runs. From the globals and
closure variables that their code names, and the attributes of the objects found there, a Walk collects guards:
"this name in this dict still holds this value". A compiled call checks them first; a guard that fails makes
it trace again, and the guard can say why.

A first Walk is done before the function runs, over the code that it may reach. What it finds changed afterwards
was changed by the function itself, and native code wouldn't do that again: such a trace serves one call only. A
traced value found there has leaked, and is refused. So is reading a clock or random numbers of NumPy or Python:
a frozen one is a bug.
"""

from __future__ import annotations

import io
import math
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import getitem
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.frozen import dataclass
from graphc.optim.optimizer import ParamGroup
from graphc.tensor import Tensor
from graphc.types import DType

MISSING = object()
PLAIN = (bool, int, float, complex, str, bytes, type(None), DType, np.dtype, np.generic, slice, range)
_INERT = (*PLAIN, BuiltinFunctionType)
_SETTINGS = (*PLAIN, tuple, list, dict, Tensor, np.ndarray)
# names that make code read attributes which it doesn't name
_DYNAMIC = frozenset({"getattr", "hasattr", "vars", "__dict__", "attrgetter", "asdict", "astuple", "fields"})
# library code calls these on the user's objects
_CALLED = frozenset({"__call__", "forward"})

Scope = tuple[CodeType, dict[str, Any], dict[str, Any]]  # code, its globals, values of its free variables and self
_GONE = (KeyError, IndexError, AttributeError, ValueError)


@dataclass(frozen=True, slots=True, eq=False)
class Guard:
    """read() must still give `expected`: the same object, or an equal one of the same type.

    read is a partial of a plain function where that is possible: native code then sees for itself whether the object
    is the same (runtime/shortcut.py), and asks holds() where it isn't.
    """

    name: str
    read: Callable[[], Any]
    expected: Any

    def holds(self) -> bool:
        try:
            now = self.read()
        except _GONE:
            now = MISSING
        return now is self.expected or _same(now, self.expected)

    def explain(self) -> str:
        """What differs, for the report of a recompilation."""
        try:
            now = _short(self.read())
        except _GONE:
            now = "gone"
        before = _short(self.expected)
        return f"{self.name} was {before}, is {now}" if before != now else f"{self.name} is another {before}"


@dataclass(frozen=True, slots=True, eq=False)
class Equal(Guard):
    """read() gives shapes, dtypes and flags, for which == is enough (and fast: there are many of these)."""

    def holds(self) -> bool:
        return bool(self.read() == self.expected)


@dataclass(frozen=True, slots=True, eq=False)
class Contents(Guard):
    """The bytes of the array that read() gives must be those of `expected`, a copy."""

    def holds(self) -> bool:
        now = self.read()
        return now.shape == self.expected.shape and bool(np.array_equal(_bytes(now), _bytes(self.expected)))

    def explain(self) -> str:
        return f"{self.name} changed (pass the array as an argument, or keep it in a tensor, to follow it)"


@dataclass(frozen=True, slots=True, eq=False)
class Never(Guard):
    """Holds for no call: the function changes what it reads."""

    def holds(self) -> bool:
        return False

    def explain(self) -> str:
        return (
            f"{self.name} is changed by the function itself, from {_short(self.expected)} to {_short(self.read())}; "
            "each call has to be traced. Keep such state in a tensor, or change it outside"
        )


def _same(now: Any, expected: Any) -> bool:
    """Whether a plain value, or a tuple of such, is the same for all that a trace makes of it."""
    if now is expected:
        return True
    if type(now) is not type(expected):
        return False
    if isinstance(expected, tuple):
        return len(now) == len(expected) and all(_same(a, b) for a, b in zip(now, expected, strict=True))
    if not isinstance(expected, PLAIN):
        return False
    if isinstance(expected, float) and expected == 0:
        return bool(now == 0) and math.copysign(1, now) == math.copysign(1, expected)
    return bool(now == expected) or (expected != expected and now != now)


def itself(value: Any) -> Any:
    """What is looked into, rather than for."""
    return value


def kind_of_tensor(x: Tensor) -> tuple[Any, ...]:
    """What an input was made for."""
    return x.shape, x.dtype, x.requires_grad


def kind_of_grad(x: Tensor) -> Any:
    """What a trace makes of a gradient: that there is none, or which shape and dtype it has."""
    grad = x._grad
    return None if grad is None else (grad.shape, grad.dtype, grad.requires_grad)


def tested(test: Callable[[Any], Any], group: Any, name: str) -> Any:
    """What a trace makes of a hyperparameter."""
    return test(group[name])


def tested_at(test: Callable[[Any], Any], group: Any, name: str, position: int) -> Any:
    """The same of one of several."""
    return test(group[name][position])


def _bytes(array: npt.NDArray[Any]) -> Any:
    if array.dtype.hasobject:
        return np.array([id(x) for x in array.flat], np.int64)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {value.dtype.short}{list(value.shape)}"
    if value is MISSING:
        return "absent"
    text = repr(value)
    return text if len(text) < 60 else f"{type(value).__name__} object"


class Walk:
    """Guards on everything that the given scopes' code can read by name, and what they lead to.

    before: done before the trace, to see later what the function itself changed.
    """

    def __init__(self, function: Callable[..., Any], scopes: Iterable[Scope], before: bool = False) -> None:
        self.guards: list[Guard] = []
        self.arrays: set[int] = set()  # ids of the NumPy arrays that were found
        self.tensors: set[int] = set()  # ids of the tensors that were found
        self.generators: list[tuple[str, Any, str]] = []  # NumPy's generators: name, generator, state
        self.iterators: dict[int, str] = {}  # id of an iterator -> its name
        self.groups: list[tuple[str, ParamGroup, dict[str, Any]]] = []  # an optimizer's: name, group, copy
        self.containers: list[tuple[str, Any]] = []  # lists and dicts that outlive the call
        self._lent: dict[type, list[tuple[str, bool]]] = {}  # what objects have from their class
        self._seen: set[int] = set()
        self._keep: list[Any] = []  # objects whose ids are in _seen stay alive
        self._before = before
        scopes = list(scopes)
        self._attributes = {name for code, _, _ in scopes for name in code.co_names}
        self._dynamic = not self._attributes.isdisjoint(_DYNAMIC)
        self._value("function", function)
        for code, names, cells in scopes:
            for name in code.co_names:
                if name in names:
                    self._entry(name, names, name)
                elif name in sys.modules and not is_library(name):  # imported by the code itself
                    self._value(name, sys.modules[name])
            for name, value in cells.items():
                if value is not MISSING:
                    self._value(name, value)

    def leaked(self) -> tuple[str, Tensor] | None:
        """A traced value that is now held by what was there before the trace: (where, value)."""
        for guard in self.guards:
            try:
                now = guard.read()
            except _GONE:
                continue
            if _is_traced(now):
                return guard.name, now
        for name, container in self.containers:
            for x in container.values() if isinstance(container, dict) else container:
                if _is_traced(x):
                    return name, x
        return None

    def changed_option(self) -> str | None:
        """The name of a hyperparameter that isn't what it was when this Walk was done."""
        for name, group, before in self.groups:
            for key, value in before.items():
                if key != "params" and not _same(group.get(key, MISSING), value):
                    return f"{name}[{key!r}]"
        return None

    def _add(self, name: str, read: Callable[[], Any], expected: Any) -> None:
        self.guards.append(Guard(name, read, expected))

    def _entry(self, name: str, mapping: dict[Any, Any], key: Any) -> None:
        """A slot of a dict (globals, an object's attributes, a dict): guard what it holds, and walk into it."""
        value = mapping[key]
        if isinstance(value, BuiltinFunctionType) or (isinstance(value, type) and is_library(value.__module__)):
            return
        if not isinstance(value, ModuleType):
            self._add(name, partial(getitem, mapping, key), value)
        self._value(name, value)

    def _value(self, name: str, value: Any) -> None:
        if isinstance(value, _INERT) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._keep.append(value)
        match value:
            case Tensor():
                self.tensors.add(id(value))
            case np.ndarray():
                self.arrays.add(id(value))
                self.guards.append(Contents(f"the array {name}", partial(itself, value), value.copy()))
            case np.random.Generator() | np.random.RandomState():
                self.generators.append((name, value, state_of(value)))
            case ModuleType():
                if not is_library(value.__name__):
                    installed = is_installed(value)
                    for key in sorted(self._attributes & value.__dict__.keys()):
                        # of a package that was installed, its plain settings: its objects are its own business
                        if not key.startswith("__") and not (installed and type(value.__dict__[key]) not in PLAIN):
                            self._entry(f"{name}.{key}", value.__dict__, key)
            case type():
                if not is_library(value.__module__):
                    self._class(name, value)
            case MethodType():
                self._value(name, value.__self__)
                self._value(name, value.__func__)
            case FunctionType():
                self._function(value)
            case partial():
                self._value(name, value.func)
                self._value(name, value.args)
                self._value(name, value.keywords)
            case _:
                self._elements(name, value)
                self._object(name, value)

    def _elements(self, name: str, value: Any) -> None:
        """What a container holds."""
        if isinstance(value, dict):
            self.containers.append((name, value))
            self._add(f"keys of {name}", partial(tuple, value), tuple(value))
            # a parameter group's options are read through the tracer, which told number() and option()
            for key in ("params",) if isinstance(value, ParamGroup) else tuple(value):
                self._entry(f"{name}[{_short(key)}]", value, key)
        elif isinstance(value, list):
            self.containers.append((name, value))
            self._add(f"length of {name}", partial(len, value), len(value))
            for i, x in enumerate(value):
                self._add(f"{name}[{i}]", partial(getitem, value, i), x)
                self._value(f"{name}[{i}]", x)
        elif isinstance(value, tuple):
            for i, x in enumerate(value):
                self._value(f"{name}[{i}]", x)
        elif isinstance(value, (set, frozenset, deque, bytearray, array)):
            self._add(f"elements of {name}", partial(tuple, value), tuple(value))
            for x in tuple(value):
                self._value(f"an element of {name}", x)
        elif hasattr(type(value), "__next__") and not isinstance(value, io.IOBase):
            self.iterators[id(value)] = name

    def _function(self, value: FunctionType) -> None:
        name = value.__name__
        if is_library(value.__module__ or ""):
            return
        self._add(f"code of {name}", partial(getattr, value, "__code__"), value.__code__)
        self._add(f"defaults of {name}", partial(getattr, value, "__defaults__"), value.__defaults__)
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            self._cell(variable, cell)
        self._value(f"defaults of {name}", value.__defaults__)
        self._value(f"defaults of {name}", value.__kwdefaults__)

    def _object(self, name: str, value: Any) -> None:
        cls = type(value)
        internal = is_internal(cls.__module__)
        attributes = getattr(value, "__dict__", None)
        if type(attributes) is not dict:
            attributes = {}
        if internal and "__wrapped__" in attributes:  # a compiled function is what it wraps
            self._value(name, attributes["__wrapped__"])
            return
        if internal and self._before:  # changes its own state in its own ways; but its parts may be the user's
            for key, part in list(attributes.items()):
                if not isinstance(part, (dict, list, tuple)):
                    self._value(f"{name}.{key}", part)
            for i, group in enumerate(attributes.get("param_groups", ())):
                if isinstance(group, ParamGroup):
                    self.groups.append((f"{name}.param_groups[{i}]", group, dict(group)))
            return
        # graphc's own objects (modules, optimizers) read any of their attributes; others those that the code names
        every = internal or any(is_internal(c.__module__) for c in cls.__mro__)
        if self._dynamic and not every and not is_library(cls.__module__):
            every = True
            self._add(f"attributes of {name}", partial(tuple, attributes), tuple(attributes))
        for key in list(attributes):
            if every or key in self._attributes:
                self._entry(f"{name}.{key}", attributes, key)
        self._inherited(name, value, attributes, every)

    def _inherited(self, name: str, value: Any, own: dict[str, Any], every: bool) -> None:
        """What an object has from its class, until it gets its own: numbers and the like, slots, methods."""
        cls = type(value)
        if cls not in self._lent:
            self._lent[cls] = list(self._lending(cls, every))
        for key, setting in self._lent[cls]:
            if key in own:
                continue
            if setting:
                now = getattr(value, key, MISSING)
                self._add(f"{name}.{key}", partial(getattr, value, key), now)
                self._value(f"{name}.{key}", now)
            else:
                self._add(f"{name}.{key}", partial(dict.get, own, key, MISSING), MISSING)

    def _lending(self, cls: type, every: bool) -> Iterator[tuple[str, bool]]:
        """What guards of a class's objects are about: names, and whether they are of values or of methods."""
        done: set[str] = set()
        for base in cls.__mro__[:-1]:
            library = is_library(base.__module__)
            if not library:
                self._value(base.__name__, base)
            for key, found in vars(base).items():
                if key in done or not (every or key in self._attributes):
                    continue
                done.add(key)
                if isinstance(found, MemberDescriptorType) or _is_setting(key, found):
                    yield key, True
                elif isinstance(found, FunctionType) and key in self._attributes and not library:
                    yield key, False

    def _class(self, name: str, cls: type) -> None:
        """What code reads of a class of the user's: its settings and functions."""
        for base in cls.__mro__[:-1]:
            if is_library(base.__module__):
                continue
            for key, found in vars(base).items():
                if key in self._attributes or key in _CALLED:
                    inner = getattr(found, "__func__", None) or getattr(found, "fget", None) or found
                    if isinstance(inner, FunctionType):
                        self._add(f"{base.__name__}.{key}", partial(getitem, vars(base), key), found)
                        self._value(f"{base.__name__}.{key}", inner)
                    elif _is_setting(key, found):
                        self._add(f"{name}.{key}", partial(getattr, cls, key), getattr(cls, key))
                        self._value(f"{name}.{key}", found)

    def _cell(self, name: str, cell: CellType) -> None:
        try:
            value = cell.cell_contents
        except ValueError:
            return
        self._add(name, partial(getattr, cell, "cell_contents"), value)
        self._value(name, value)


def _is_setting(key: str, value: Any) -> bool:
    """Whether a class attribute is a value rather than a method or a descriptor."""
    return isinstance(value, _SETTINGS) and not key.startswith("__")


def _is_traced(value: Any) -> bool:
    return isinstance(value, Tensor) and value._data is None


def is_internal(module: str) -> bool:
    return module == "graphc" or module.startswith("graphc.")


def is_library(module: str) -> bool:
    """Whether the code of a module is taken as fixed: graphc, NumPy, Python's own library."""
    root = module.partition(".")[0]
    return root != "__main__" and (root in ("graphc", "numpy", "networkx") or root in sys.stdlib_module_names)


def is_installed(module: ModuleType) -> bool:
    """Whether a module belongs to an installed package rather than to the user's own code."""
    parts = (getattr(module, "__file__", None) or "").replace("\\", "/").split("/")
    return "site-packages" in parts or "dist-packages" in parts


def state_of(generator: Any) -> str:
    """The state of a NumPy generator, to be compared."""
    if isinstance(generator, np.random.RandomState):
        return _written(generator.get_state(legacy=False))
    return _written(generator.bit_generator.state)


def _written(state: Any) -> str:
    """A generator's state as text: every element of its arrays, and numbers beyond 64 bits (PCG64's) by their value."""
    if isinstance(state, dict):
        return repr({key: _written(part) for key, part in state.items()})
    return repr(state.tobytes() if isinstance(state, np.ndarray) else state)
