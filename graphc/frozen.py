"""`dataclass`, quick to define: as that of dataclasses, but a method is written and compiled when it is first called.

dataclasses compiles half a dozen methods for each class at once, a third of a millisecond. A compiler is made of a
hundred such classes, most of whose comparisons nobody asks for; defining them all took a fifth of the time from the
start of a process to the first result. What is the same for all classes stands here once, and __init__ sets a frozen
class's slots directly, in two thirds of the time.

Fields, defaults, `field`, `fields`, `replace` and patterns are those of dataclasses. There is neither `kw_only` nor
`InitVar`, nor a guard against a repr that contains itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, FrozenInstanceError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool = False, slots: bool = False, eq: bool = True) -> Callable[[type], type]:
        """The decorator: see above."""
        return lambda cls: _finish(cls, frozen, slots, eq)


def _finish(cls: Any, frozen: bool, slots: bool, eq: bool) -> type:
    """The class with all methods that it doesn't define itself."""
    own = frozenset(vars(cls))
    hashed = "__hash__" in own and not (vars(cls)["__hash__"] is None and "__eq__" in own)
    cls.__doc__ = cls.__doc__ or cls.__name__  # else dataclasses would compose one
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
    methods: dict[str, Any] = {"__repr__": _repr, "__init__": _later(made, "__init__", _initialiser, frozen, slots)}
    if frozen:
        methods |= {"__setattr__": _refuse, "__delattr__": _refuse}
        if slots:
            methods |= {"__getstate__": _state, "__setstate__": _restore}
    if eq:
        methods |= {"__eq__": _later(made, "__eq__", _comparison)}
    for name, method in methods.items():
        if name not in own:
            setattr(made, name, method)
    if eq and not hashed:
        made.__hash__ = _later(made, "__hash__", _digest) if frozen else None
    return made  # type: ignore[no-any-return]


def _later(cls: Any, name: str, write: Callable[..., Any], *how: Any) -> Callable[..., Any]:
    """A method that writes the one which takes its place."""

    def first(self: Any, *args: Any, **options: Any) -> Any:
        written = write(cls, *how)
        setattr(cls, name, written)
        return written(self, *args, **options)

    return first


def _compiled(text: Sequence[str], names: Mapping[str, Any]) -> Any:
    """The function `made` of these lines."""
    found: dict[str, Any] = dict(names)
    exec("\n".join(text), found)  # of names that this module chose and the fields' own
    return found["made"]


def _initialiser(cls: Any, frozen: bool, slots: bool) -> Any:
    names: dict[str, Any] = {"_none": MISSING, "_set": object.__setattr__}
    parameters, body = ["self"], []
    for f in dataclasses.fields(cls):
        name, value, default = f.name, f.name, ""
        if f.default is not MISSING:
            default = f"_default_{name}"
            names[default] = f.default
        elif f.default_factory is not MISSING:
            default, value = "_none", f"_make_{name}() if {name} is _none else {name}"
            names[f"_make_{name}"] = f.default_factory
        if f.init:
            parameters.append(f"{name}={default}" if default else name)
        elif not default:
            continue  # __post_init__ sets it
        else:
            value = f"_make_{name}()" if default == "_none" else default
        if frozen and slots:
            names[f"_set_{name}"] = getattr(cls, name).__set__
            body.append(f"    _set_{name}(self, {value})")
        else:
            body.append(f"    _set(self, {name!r}, {value})" if frozen else f"    self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("    self.__post_init__()")
    return _compiled([f"def made({', '.join(parameters)}):", *body, "    return None"], names)


def _tuple(cls: Any, of: str) -> str:
    """The compared fields of the object named `of`, as text."""
    return "(" + "".join(f"{of}.{f.name}, " for f in dataclasses.fields(cls) if f.compare) + ")"


def _comparison(cls: Any) -> Any:
    same = f"{_tuple(cls, 'self')} == {_tuple(cls, 'other')}"
    body = f"    return {same} if other.__class__ is self.__class__ else NotImplemented"
    return _compiled(["def made(self, other):", body], {})


def _digest(cls: Any) -> Any:
    return _compiled(["def made(self):", f"    return hash({_tuple(cls, 'self')})"], {})


def _repr(self: Any) -> str:
    shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{type(self).__qualname__}({shown})"


def _refuse(self: Any, name: str, *_: object) -> None:
    raise FrozenInstanceError(f"{type(self).__qualname__} is immutable: {name!r} can't be set or deleted")


def _state(self: Any) -> list[Any]:
    return [getattr(self, f.name) for f in dataclasses.fields(self)]


def _restore(self: Any, state: Sequence[Any]) -> None:
    for f, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, f.name, value)
