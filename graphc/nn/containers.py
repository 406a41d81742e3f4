"""Modules made of modules: Sequential, ModuleList, ModuleDict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any, Self, overload

from graphc.nn.module import Module
from graphc.primitive import Value


class _Listed(Module):
    """Modules under the names "0", "1", ...; or, in a Sequential, under given names. Their order is kept."""

    def _members(self) -> list[tuple[str, Module]]:
        # with repetitions: a module may stand in a list twice
        return [(name, value) for name, value in vars(self).items() if isinstance(value, Module)]

    def _like(self, modules: Iterable[Module]) -> Self:
        raise NotImplementedError

    def _name(self, index: int) -> str:
        members = self._members()
        try:
            return members[index][0]
        except IndexError:
            raise IndexError(f"{type(self).__name__} has {len(members)} modules, none of number {index}") from None

    def __len__(self) -> int:
        return len(self._members())

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self._members())

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Module | Self:
        """A module, or the same kind of list with some of them (the modules are shared, not copied)."""
        if isinstance(index, slice):
            return self._like([module for _, module in self._members()][index])
        module: Module = vars(self)[self._name(index)]
        return module

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name(index), module)

    def append(self, module: Module) -> Self:
        """Add a module at the end. Returns self."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end. Returns self."""
        for module in modules:
            self.append(module)
        return self


class Sequential(_Listed):
    """Modules called one after another. Given as arguments, or as a mapping from names to modules."""

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        for position, entry in enumerate(modules):
            if isinstance(entry, Module):
                self.add_module(str(position), entry)
            elif len(modules) == 1 and isinstance(entry, Mapping):
                for name, module in entry.items():
                    self.add_module(name, module)
            else:
                raise TypeError(f"Sequential: argument {position} is a {type(entry).__name__}, not a Module")

    def forward(self, x: Value) -> Value:
        for module in self:
            x = module(x)
        return x

    def _like(self, modules: Iterable[Module]) -> Self:
        return type(self)(*modules)


class ModuleList(_Listed):
    """A list of modules whose parameters count. It has no forward()."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self.extend(modules)

    def _like(self, modules: Iterable[Module]) -> Self:
        return type(self)(modules)

    def _described(self) -> Iterator[tuple[str, str]]:
        """Modules in a row that read the same stand once: (0-5): 6 x Block(...)."""
        for text, group in groupby(super()._described(), key=itemgetter(1)):
            names = [name for name, _ in group]
            if len(names) == 1:
                yield names[0], text
            else:
                yield f"{names[0]}-{names[-1]}", f"{len(names)} x {text}"


class ModuleDict(Module):
    """Modules by name, whose parameters count. It has no forward()."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        for name, module in (modules or {}).items():
            self[name] = module

    def __getitem__(self, name: str) -> Module:
        module: Any = vars(self).get(name)
        if not isinstance(module, Module):
            raise KeyError(name)
        return module

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, module)

    def __contains__(self, name: str) -> bool:
        return isinstance(vars(self).get(name), Module)

    def __len__(self) -> int:
        return len(list(self.keys()))

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def keys(self) -> Iterator[str]:
        """The names, in order."""
        return (name for name, value in vars(self).items() if isinstance(value, Module))

    def values(self) -> Iterator[Module]:
        """The modules, in order."""
        return (self[name] for name in self.keys())

    def items(self) -> Iterator[tuple[str, Module]]:
        """(name, module), in order."""
        return ((name, self[name]) for name in self.keys())
