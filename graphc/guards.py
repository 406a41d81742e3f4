"""What a traced function read from Python, and how a later call finds out that it has changed.

A trace freezes everything that isn't a tensor: numbers, flags, the length of a list, which object a name
means. While a function is traced, the Watcher notes each Python function that runs. From the globals and
closure variables that their code names, and the attributes of the objects found there, it collects guards:
"this name in this dict still holds this value". A compiled call checks them first; a guard that fails makes
it trace again, and the guard can say why.

Reading a clock, NumPy's or Python's random numbers inside a traced function is refused: a frozen one is a bug.
"""

from __future__ import annotations

import builtins
import gc
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from graphc.errors import TraceError
from graphc.optim.optimizer import ParamGroup
from graphc.tensor import Tensor
from graphc.types import DType

_MISSING = object()
_PLAIN = (bool, int, float, complex, str, bytes, type(None), DType, np.dtype, np.generic, slice, range)
_CLOCKS = frozenset({"time"})
_RANDOM = (random.Random, np.random.Generator, np.random.RandomState)


@dataclass(frozen=True, slots=True, eq=False)
class Guard:
    """read() must still give `expected`: the same object, or an equal one of the same type."""

    name: str
    read: Callable[[], Any]
    expected: Any

    def holds(self) -> bool:
        try:
            now = self.read()
        except (KeyError, IndexError, AttributeError, ValueError):
            now = _MISSING
        expected = self.expected
        if now is expected:
            return True
        if type(now) is not type(expected) or not isinstance(expected, (*_PLAIN, tuple)):
            return False
        return bool(now == expected) or (expected != expected and now != now)

    def explain(self) -> str:
        """What differs, for the report of a recompilation."""
        try:
            now = _short(self.read())
        except (KeyError, IndexError, AttributeError, ValueError):
            now = "gone"
        return f"{self.name} was {_short(self.expected)}, is {now}"


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {value.dtype.short}{list(value.shape)}"
    text = repr(value)
    return text if len(text) < 60 else f"{type(value).__name__} object"


class Watcher:
    """Collects guards during one trace. Use as a context manager around the traced call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._codes: dict[CodeType, FrameType | None] = {}
        self._scopes: list[tuple[CodeType, dict[str, Any], dict[str, Any]]] = []
        self._guards: list[Guard] = []
        self._seen: set[int] = set()
        self._keep: list[Any] = []  # objects whose ids are in _seen stay alive until the guards are made
        self._arrays: set[int] = set()
        self._attributes: set[str] = set()
        self._tensors: set[int] = set()
        self._previous: Any = None
        self._collecting = False
        self._collected = False

    # ------------------------------------------------------------------------------- while tracing

    def __enter__(self) -> Watcher:
        # a collection in the middle would run others' callbacks and finalizers as if the function had called them
        self._collecting = gc.isenabled()
        gc.disable()
        self._previous = sys.getprofile()
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._previous)
        if self._collecting:
            gc.enable()

    def _event(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            if code in self._codes:
                return
            self._codes[code] = None
            if _library(frame.f_globals.get("__name__", "")):
                return
            cells = {n: frame.f_locals.get(n, _MISSING) for n in code.co_freevars}
            receivers = {n: v for n, v in frame.f_locals.items() if n == "self"}
            self._scopes.append((code, frame.f_globals, {**cells, **receivers}))
        elif event == "c_call":
            self._refuse_clocks(frame, argument)

    def _refuse_clocks(self, frame: FrameType, function: Any) -> None:
        if _internal(frame.f_globals.get("__name__", "")):
            return
        owner = getattr(function, "__self__", None)
        clock = getattr(function, "__module__", None) in _CLOCKS and isinstance(function, BuiltinFunctionType)
        if clock or isinstance(owner, _RANDOM):
            what = "a clock" if clock else "random numbers of Python or NumPy"
            raise TraceError(
                f"the compiled function reads {what} ({function.__name__}) at "
                f"{frame.f_code.co_filename}:{frame.f_lineno}: "
                "its value would be frozen. Pass it as an argument, or draw with graphc.random."
            )

    # -------------------------------------------------------------------------- told by the tracer

    def tensor(self, x: Tensor) -> None:
        """A tensor from outside became an input: what its input was made for must stay so."""
        name = f"captured tensor {x.dtype.short}{list(x.shape)}"
        self._add(f"shape of {name}", lambda: x.shape, x.shape)
        self._add(f"dtype of {name}", lambda: x.dtype, x.dtype)
        self._add(f"requires_grad of {name}", lambda: x.requires_grad, x.requires_grad)

    def grad(self, x: Tensor) -> None:
        """The function looked at x.grad."""
        now = x._grad
        if now is None:
            self._add(f"grad of a tensor {x.dtype.short}{list(x.shape)}", lambda: x._grad, None)
        else:
            self._add(f"grad of a tensor {x.dtype.short}{list(x.shape)}", lambda: x._grad, now)

    def number(self, group: Any, key: Any) -> None:
        """A hyperparameter became an input; it must stay a number."""
        if isinstance(key, str):
            self._add(f"type of {key}", lambda: type(group[key]), type(group[key]))
        else:
            name, position = key
            self._add(f"type of {name}[{position}]", lambda: type(group[name][position]), type(group[name][position]))

    def option(self, group: Any, name: str, test: Callable[[Any], Any]) -> Any:
        """A hyperparameter decides the course of the step."""
        value = test(group[name])
        self._add(f"option {name}", lambda: test(group[name]), value)
        return value

    # ------------------------------------------------------------------------------ after tracing

    def guards(self) -> tuple[Guard, ...]:
        """Every guard of this trace."""
        self._collect()
        return tuple(self._guards)

    def arrays(self) -> set[int]:
        """ids of the NumPy arrays that can be reached from outside of the traced call."""
        self._collect()
        return self._arrays

    def _add(self, name: str, read: Callable[[], Any], expected: Any) -> None:
        self._guards.append(Guard(name, read, expected))

    def _collect(self) -> None:
        if self._collected:
            return
        self._collected = True
        for code, _, _ in self._scopes:
            self._attributes.update(code.co_names)
        function = self._function
        self._object("function", function)
        for code, names, cells in self._scopes:
            for name in _global_names(code):
                if name in names:
                    self._entry(name, names, name)
            for name, value in cells.items():
                if value is not _MISSING:
                    self._walk(name, value)

    def _entry(self, name: str, mapping: dict[Any, Any], key: Any) -> None:
        """A slot of a dict (globals, an object's attributes, a dict): guard what it holds, and walk into it."""
        value = mapping[key]
        if isinstance(value, type) and not _library(value.__module__):
            self._defaults(name, value, value, {}, every=False)
        if isinstance(value, (type, BuiltinFunctionType)):
            return
        if not isinstance(value, ModuleType):
            self._add(name, lambda: mapping[key], value)
        self._walk(name, value)

    def _walk(self, name: str, value: Any) -> None:
        if isinstance(value, (*_PLAIN, type, BuiltinFunctionType)) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._keep.append(value)
        if isinstance(value, np.ndarray):
            self._arrays.add(id(value))
            self._add(f"shape of {name}", lambda: value.shape, value.shape)
        elif isinstance(value, Tensor):
            pass
        elif isinstance(value, ModuleType):
            if not _library(value.__name__):
                for key in sorted(self._attributes & value.__dict__.keys()):
                    if not key.startswith("__"):
                        self._entry(f"{name}.{key}", value.__dict__, key)
        elif isinstance(value, dict):
            self._add(f"keys of {name}", lambda: tuple(value), tuple(value))
            # a parameter group's options are read through the tracer, which told number() and option()
            for key in ("params",) if isinstance(value, ParamGroup) else value:
                self._entry(f"{name}[{key!r}]", value, key)
        elif isinstance(value, (list, tuple)):
            self._add(f"length of {name}", lambda: len(value), len(value))
            for i, x in enumerate(value):
                if isinstance(value, list):
                    self._add(f"{name}[{i}]", _item(value, i), x)
                self._walk(f"{name}[{i}]", x)
        elif isinstance(value, (set, frozenset)):
            self._add(f"elements of {name}", lambda: tuple(sorted(map(repr, value))), tuple(sorted(map(repr, value))))
        else:
            self._object(name, value)

    def _object(self, name: str, value: Any) -> None:
        if isinstance(value, MethodType):
            self._walk(name, value.__self__)
            value = value.__func__
        if isinstance(value, FunctionType):
            for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
                self._cell(variable, cell)
            for i, default in enumerate(value.__defaults__ or ()):
                self._walk(f"default {i} of {value.__name__}", default)
            return
        attributes = getattr(value, "__dict__", None)
        if type(attributes) is dict:
            # graphc's own objects (modules, optimizers) read any of their attributes; others those that the code names
            every = _internal(type(value).__module__) or any(_internal(c.__module__) for c in type(value).__mro__)
            for key in list(attributes):
                if every or key in self._attributes:
                    self._entry(f"{name}.{key}", attributes, key)
            self._defaults(name, value, type(value), attributes, every)

    def _defaults(self, name: str, owner: Any, cls: type, own: Mapping[str, Any], every: bool) -> None:
        """What `owner` has from its class, until it gets its own: numbers and the like, not methods."""
        found: dict[str, Any] = {}
        for base in cls.__mro__[:-1]:
            for key, value in vars(base).items():
                plain = isinstance(value, (*_PLAIN, tuple, list, dict, Tensor, np.ndarray)) and not key.startswith("__")
                if plain and key not in own and (every or key in self._attributes):
                    found.setdefault(key, value)
        for key, value in found.items():
            self._add(f"{name}.{key}", partial(getattr, owner, key), value)
            self._walk(f"{name}.{key}", value)

    def _cell(self, name: str, cell: CellType) -> None:
        try:
            value = cell.cell_contents
        except ValueError:
            return
        self._add(name, lambda: cell.cell_contents, value)
        self._walk(name, value)


def _item(values: list[Any], i: int) -> Callable[[], Any]:
    return lambda: values[i]


def _internal(module: str) -> bool:
    return module == "graphc" or module.startswith("graphc.")


def _library(module: str) -> bool:
    """Whether the code of a module is taken as fixed: graphc, NumPy, Python's own library."""
    root = module.partition(".")[0]
    return root != "__main__" and (root in ("graphc", "numpy", "networkx") or root in sys.stdlib_module_names)


def _global_names(code: CodeType) -> Iterator[str]:
    for name in code.co_names:
        if not hasattr(builtins, name):
            yield name
