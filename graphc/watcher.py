"""Watching a function that is traced: which code runs, what it reads that would be frozen, what it leaves behind."""

from __future__ import annotations

import functools
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from graphc.collector import paused
from graphc.errors import TraceError
from graphc.guards import (
    MISSING,
    PLAIN,
    Equal,
    Guard,
    Never,
    Scope,
    Walk,
    is_installed,
    is_internal,
    is_library,
    kind_of_grad,
    kind_of_tensor,
    state_of,
    tested,
    tested_at,
)
from graphc.tensor import Tensor

_RANDOM = (random.Random, np.random.Generator, np.random.RandomState)
_CLOCKS = frozenset({"now", "utcnow", "today"})
_SYSTEM = frozenset({"urandom", "getrandom"})
# only functions of these names can be what _frozen() finds
_SUSPECTS = (frozenset(dir(time)).union(*map(dir, _RANDOM)) - frozenset(dir(object))) | _CLOCKS | _SYSTEM


class Watcher:
    """Collects guards during one trace. Use as a context manager around the traced call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._codes: dict[int, CodeType] = {}  # by id: a code's hash takes longer than all the rest
        self._watching = False
        self.away = 0  # how many look_away() await their look_again()
        self._scopes: list[Scope] = []
        self._told: list[Guard] = []
        self._options: set[tuple[int, str, Callable[[Any], Any]]] = set()
        self._before = Walk(function, _scopes_of(function), before=True)
        self._numpy_state = state_of(np.random.mtrand._rand)
        self._after: Walk | None = None
        self._previous: Any = None
        self._paused = paused()

    # ------------------------------------------------------------------------------- while tracing

    def __enter__(self) -> Watcher:
        # a collection in the middle would run others' callbacks and finalizers as if the function had called them
        self._paused.__enter__()
        self._previous = sys.getprofile()
        self._watching = True
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        self._watching = False
        if self._previous is None or callable(self._previous):
            sys.setprofile(self._previous)
        else:  # cProfile's: an object that enters itself
            sys.setprofile(None)
            self._previous.enable()
        self._paused.__exit__(None, None, None)

    def look_away(self) -> None:
        """While graphc's own code runs that calls none of the user's: to be told of each of its calls takes longer than
        the calls."""
        self.away += 1
        if self.away == 1 and self._watching:
            sys.setprofile(None)

    def look_again(self) -> None:
        """The end of what look_away() began."""
        self.away -= 1
        if self.away == 0 and self._watching:
            sys.setprofile(self._event)

    def _event(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            if argument.__name__ in _SUSPECTS:
                what = _frozen(argument)
                if what is not None:
                    _refuse(what, argument.__name__, frame)
        elif event == "call":
            code = frame.f_code
            if id(code) in self._codes:
                return
            self._codes[id(code)] = code
            if is_library(frame.f_globals.get("__name__", "")):
                return
            cells = {n: frame.f_locals.get(n, MISSING) for n in code.co_freevars}
            receivers = {n: v for n, v in frame.f_locals.items() if n == "self"}
            self._scopes.append((code, frame.f_globals, {**cells, **receivers}))

    # -------------------------------------------------------------------------- told by the tracer

    def tensor(self, x: Tensor) -> None:
        """A tensor from outside became an input: what its input was made for must stay so."""
        name = f"captured tensor {x.dtype.short}{list(x.shape)}"
        self._told.append(
            Equal(f"(shape, dtype, requires_grad) of {name}", partial(kind_of_tensor, x), kind_of_tensor(x))
        )

    def grad(self, x: Tensor, same: bool = False) -> None:
        """The function looked at x.grad. same: it must stay the tensor that it is."""
        if same:
            self._add(f"grad of a tensor {x.dtype.short}{list(x.shape)}", partial(getattr, x, "_grad"), x._grad)
        self._add(f"grad of a tensor {x.dtype.short}{list(x.shape)}", partial(kind_of_grad, x), kind_of_grad(x))

    def number(self, group: Any, key: Any) -> None:
        """A hyperparameter became an input; it must stay a number."""
        if isinstance(key, str):
            self._add(f"type of {key}", partial(tested, type, group, key), type(group[key]))
        else:
            name, position = key
            read = partial(tested_at, type, group, name, position)
            self._add(f"type of {name}[{position}]", read, read())

    def option(self, group: Any, name: str, test: Callable[[Any], Any]) -> Any:
        """A hyperparameter decides the course of the step."""
        value = test(group[name])
        if (id(group), name, test) in self._options:
            return value
        self._options.add((id(group), name, test))
        self._add(f"option {name}", partial(tested, test, group, name), value)
        return value

    # ------------------------------------------------------------------------------ after tracing

    def check(self) -> None:
        """Raises TraceError if the function drew NumPy's numbers, read an iterator, set an option or leaked."""
        drawn = [name for name, generator, state in self._before.generators if state_of(generator) != state]
        if state_of(np.random.mtrand._rand) != self._numpy_state:
            drawn.append("numpy.random")
        if drawn:
            raise TraceError(
                f"the compiled function draws random numbers of NumPy ({drawn[0]}): they would be frozen. "
                "Pass them as arguments, or draw with graphc.random."
            )
        used = [name for key, name in self._walk().iterators.items() if key in self._before.iterators]
        if used:
            raise TraceError(
                f"the compiled function uses an iterator from outside, {used[0]}: what it gave would be frozen. "
                "Advance it outside, and pass what it gives as an argument."
            )
        option = self._before.changed_option()
        if option is not None:
            raise TraceError(
                f"the compiled function changes the hyperparameter {option}: native code wouldn't do that again. "
                "Change it outside, between calls: the next call reads it, and nothing is compiled again."
            )
        leaked = self._before.leaked()
        if leaked is not None:
            name, value = leaked
            where = value._node.origin.location if value._node is not None else None
            raise TraceError(
                f"the compiled function leaves a traced value (made at {where or '?'}) in {name}: it has no numbers "
                "there. Return it instead, or write it into a tensor that exists: t.copy_(value)."
            )

    def guards(self) -> tuple[Guard, ...]:
        """Every guard of this trace."""
        own = [Never(g.name, g.read, g.expected) for g in self._before.guards if not g.holds()]
        return (*own, *self._told, *self._walk().guards)

    def arrays(self) -> set[int]:
        """ids of the NumPy arrays that can be reached from outside of the traced call."""
        return self._walk().arrays

    def tensors(self) -> set[int]:
        """ids of the tensors that the code knows by name."""
        return self._walk().tensors

    def _walk(self) -> Walk:
        if self._after is None:
            self._after = Walk(self._function, self._scopes)
        return self._after

    def _add(self, name: str, read: Callable[[], Any], expected: Any) -> None:
        self._told.append(Guard(name, read, expected))


def _scopes_of(function: Callable[..., Any]) -> Iterator[Scope]:
    """Scopes of the user's code that a call may run, as far as names, attributes and methods tell."""
    seen: set[int] = set()
    keep: list[Any] = []
    stack: list[Any] = [function]
    while stack:
        x = stack.pop()
        if isinstance(x, (*PLAIN, BuiltinFunctionType, Tensor, np.ndarray)) or id(x) in seen:
            continue
        seen.add(id(x))
        keep.append(x)
        if isinstance(x, MethodType):
            stack += [x.__self__, x.__func__]
        elif isinstance(x, functools.partial):
            stack += [x.func, *x.args, *x.keywords.values()]
        elif isinstance(x, FunctionType):
            if is_library(x.__module__ or ""):
                stack += [w for w in (getattr(x, "__wrapped__", None),) if w is not None]
                continue
            stack += [c.cell_contents for c in x.__closure__ or () if _filled(c)]
            stack += x.__defaults__ or ()
            codes = [x.__code__]
            for code in codes:
                codes += [c for c in code.co_consts if isinstance(c, CodeType)]
                yield code, x.__globals__, {}
                stack += [x.__globals__[name] for name in code.co_names if name in x.__globals__]
        elif isinstance(x, type):
            if not is_library(x.__module__):
                stack += [getattr(f, "__func__", None) or getattr(f, "fget", None) or f for f in vars(x).values()]
        elif isinstance(x, dict):
            stack += x.values()
        elif isinstance(x, (list, tuple)):
            stack += x
        elif isinstance(x, ModuleType):
            if not is_library(x.__name__) and not is_installed(x):
                stack += [f for f in vars(x).values() if isinstance(f, FunctionType) and f.__module__ == x.__name__]
        else:
            stack += type(x).__mro__[:-1]
            attributes = getattr(x, "__dict__", None)
            if type(attributes) is dict:
                stack += attributes.values()


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _frozen(function: Any) -> str | None:
    """What a built-in function reads that would be frozen: a clock or random numbers; None for neither."""
    if isinstance(getattr(function, "__self__", None), _RANDOM):
        return "random numbers of Python or NumPy"
    name = getattr(function, "__name__", "")
    if getattr(function, "__module__", None) == "time":
        return None if name in ("sleep", "mktime", "tzset", "strptime") else "a clock"
    if name in _CLOCKS and getattr(function.__self__, "__module__", "") == "datetime":
        return "a clock"
    return "random numbers of the system" if name in _SYSTEM else None


def _refuse(what: str, name: str, frame: FrameType | None) -> None:
    """Raise TraceError for the user's line that led here; graphc's own reading and logging are no concern."""
    while frame is not None and is_library(frame.f_globals.get("__name__", "")):
        module = frame.f_globals.get("__name__", "")
        if is_internal(module) or module.partition(".")[0] in ("logging", "warnings"):
            return
        frame = frame.f_back
    if frame is None:
        return
    raise TraceError(
        f"the compiled function reads {what} ({name}) at {frame.f_code.co_filename}:{frame.f_lineno}: "
        "its value would be frozen. Pass it as an argument, or draw with graphc.random."
    )
