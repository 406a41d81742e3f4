"""Nested tuples, lists and dicts of values, taken apart and put together again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from graphc.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Structure:
    """The shape of a nested value. kind: tuple, list, dict, OrderedDict (or a namedtuple class), or None for a leaf."""

    kind: type | None
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()

    @property
    def leaves(self) -> int:
        return 1 if self.kind is None else sum(c.leaves for c in self.children)


_LEAF = Structure(None)


def flatten(value: Any) -> tuple[list[Any], Structure]:
    """(leaves in order, structure). Dicts are visited in insertion order."""
    leaves: list[Any] = []
    return leaves, _flatten(value, leaves)


def _flatten(value: Any, leaves: list[Any]) -> Structure:
    if isinstance(value, (tuple, list)):
        return Structure(type(value), (), tuple(_flatten(v, leaves) for v in value))
    if type(value) is dict or type(value) is OrderedDict:
        return Structure(type(value), tuple(value), tuple(_flatten(v, leaves) for v in value.values()))
    leaves.append(value)
    return _LEAF


def unflatten(structure: Structure, leaves: Iterator[Any]) -> Any:
    """The nested value with these leaves, taken in order."""
    if structure.kind is None:
        return next(leaves)
    parts = [unflatten(c, leaves) for c in structure.children]
    build: Callable[..., Any] = structure.kind
    if issubclass(structure.kind, dict):
        return build(zip(structure.keys, parts, strict=True))
    if issubclass(structure.kind, tuple) and hasattr(structure.kind, "_fields"):
        return build(*parts)
    return build(parts)
