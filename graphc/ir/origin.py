"""Where a node comes from: the user's line, the rewrite that made it, the node it is the derivative of.

Errors, `explain()` and the verifier live on this. It stands beside a node and never takes part in its identity.
"""

from __future__ import annotations

import sys
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from graphc.frozen import dataclass

if TYPE_CHECKING:
    from graphc.ir.node import Node


@dataclass(frozen=True, slots=True)
class Origin:
    """location: "file.py:41", the user's line. rule: the rewrite that made the node. source: the node it
    was rewritten from. derivative_of: the forward node whose rule made it."""

    location: str | None = None
    rule: str | None = None
    source: Node | None = None
    derivative_of: Node | None = None

    def __str__(self) -> str:
        parts = [self.location or "?"]
        if self.rule:
            parts.append(f"by {self.rule}")
        if self.derivative_of is not None:
            parts.append(f"derivative of {self.derivative_of.op.name}")
        return ", ".join(parts)


class Rewriting:
    """The origin of whatever a rule is building now: made into an Origin only when a node asks for it, since most
    rules that are tried build nothing. The rewriter sets `node` and `rule` before it tries a rule."""

    __slots__ = ("node", "rule")

    node: Node
    rule: str

    def origin(self) -> Origin:
        return Origin(self.node.origin.location, self.rule, self.node, self.node.origin.derivative_of)


_NOWHERE = Origin()


class _Here(threading.local):
    """What `during` said, in each thread: one may compile while another traces."""

    current: Origin | Rewriting | None = None


_here = _Here()


_internal: dict[int, dict[str, Any]] = {}  # globals of graphc's modules by id: looked up for each frame of each node


def user_location() -> str | None:
    """file:line of the innermost frame outside of graphc, or None."""
    frame = sys._getframe(1)
    while frame is not None:
        names = frame.f_globals
        if id(names) not in _internal:
            name = names.get("__name__", "")
            if not (name == "graphc" or name.startswith("graphc.")):
                return f"{frame.f_code.co_filename}:{frame.f_lineno}"
            _internal[id(names)] = names
        frame = frame.f_back  # type: ignore[assignment]
    return None


def current() -> Origin:
    """The origin that a node built now gets: what `during` said, else the user's line."""
    said = _here.current
    if said is not None:
        return said.origin() if type(said) is Rewriting else said  # type: ignore[return-value]
    location = user_location()
    return Origin(location) if location else _NOWHERE


class _During:
    """What `during` gives. A class of its own, since a generator's context takes longer to enter than a rule takes to
    build, and each node's derivative is built in one."""

    __slots__ = ("_before", "_origin")

    def __init__(self, origin: Origin | Rewriting) -> None:
        self._origin = origin

    def __enter__(self) -> None:
        self._before = _here.current
        _here.current = self._origin

    def __exit__(self, *_: object) -> None:
        _here.current = self._before


def during(origin: Origin | Rewriting) -> AbstractContextManager[None]:
    """Every node built inside gets this origin."""
    return _During(origin)


def derivative_of(node: Node) -> Origin:
    """The origin of what a derivative rule of `node` builds: its user's line, and the node itself."""
    return Origin(node.origin.location, "differentiate", node, node)
