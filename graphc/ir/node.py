"""Node: one value of the graph. Immutable and interned: building the same value twice gives the same object.

So common subexpressions never exist, equality is identity, and a derivative can't swell.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.errors import VerifyError
from graphc.forking import whole
from graphc.ir import origin as provenance
from graphc.ir.origin import Origin
from graphc.primitive import Fact, Primitive
from graphc.types import DType, Scalar, TensorType, dtype_of

_serial = itertools.count()


_UNKNOWN = object()


class Constant:
    """A constant's number(s): a read-only array, compared and hashed by dtype, shape and bits.

    Bits, so that -0.0 is not 0.0 and NaN equals itself.
    """

    __slots__ = ("_hash", "_number", "array")

    def __init__(self, array: npt.NDArray[Any]) -> None:
        array = np.array(array, order="C")
        array.flags.writeable = False
        self.array = array
        self._number: Any = _UNKNOWN
        self._hash = hash((array.dtype.str, array.shape, array.tobytes()))

    @property
    def number(self) -> Any:
        """The number that all elements are, as NumPy's scalar; None if they differ, or if there are none."""
        if self._number is _UNKNOWN:
            array = self.array
            first = array.reshape(-1)[0] if array.size else None
            self._number = first if first is not None and (array.ndim == 0 or (array == first).all()) else None
        return self._number

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant):
            return NotImplemented
        a, b = self.array, other.array
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()

    def __repr__(self) -> str:
        return f"Constant({self.array!r})"


class _Unfinished:
    """A node whose fields are being set: it becomes a Node, which has the same ones, when they are. (To go past Node's
    own refusal for each field took as long as all the rest of making one.)"""

    __slots__ = ("__weakref__", "attrs", "inputs", "op", "origin", "serial", "type")


class Node(_Unfinished):
    """op: the primitive. inputs: operand nodes, in the operands' order. attrs: read-only mapping of
    hashable values. type: TensorType (a tuple of them for `fused`). serial: age, for stable order."""

    __slots__ = ()

    op: Primitive
    inputs: tuple[Node, ...]
    attrs: Mapping[str, Any]
    type: TensorType
    origin: Origin
    serial: int

    def __new__(
        cls, op: Primitive, inputs: tuple[Node, ...], attrs: Mapping[str, Any], type: TensorType, origin: Origin
    ) -> Node:
        made: Any = _Unfinished()
        made.op = op
        made.inputs = inputs
        made.attrs = attrs
        made.type = type
        made.origin = origin
        made.serial = next(_serial)
        made.__class__ = cls
        return made  # type: ignore[no-any-return]

    def __setattr__(self, name: str, value: object) -> None:
        raise VerifyError(f"nodes are immutable: can't set {name}; build a new one with node.replace(...)")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    def replace(self, inputs: tuple[Node, ...]) -> Node:
        """The same operation on other operands."""
        if inputs == self.inputs:
            return self
        return make(self.op, inputs, self.attrs, self.origin)

    def __repr__(self) -> str:
        operands = ", ".join(f"%{n.serial}" for n in self.inputs)
        attrs = "".join(f" {k}={v}" for k, v in self.attrs.items())
        return f"<%{self.serial} = {self.op.name}({operands}){attrs} : {self.type}>"


def _typed(*types: TensorType, type: TensorType, **_: Any) -> TensorType:
    return type


def _constant_type(*, value: Constant) -> TensorType:
    return TensorType(value.array.shape, dtype_of(value.array.dtype))


def _item_type(group: Any, *, index: int) -> TensorType:
    return group[index]  # type: ignore[no-any-return]


def _unevaluated(xp: Any, *arrays: Any, **attrs: Any) -> Any:
    raise VerifyError("this operation has no numbers of its own: the interpreter handles it")


INPUT = Primitive("input", infer=_typed, eval=_unevaluated, facts=Fact.SYMBOLIC)
CONSTANT = Primitive(
    "constant", infer=_constant_type, eval=lambda xp, *, value: xp.asarray(value.array), facts=Fact.SYMBOLIC
)
# One result of a `fused` node, whose type is a tuple.
ITEM = Primitive("item", infer=_item_type, eval=lambda xp, group, *, index: group[index], facts=Fact.SYMBOLIC)


def _fused_type(*operands: TensorType, graph: Any, full: Any, outer: Any) -> Any:
    return tuple(output.type for output in graph.outputs)


# One kernel: an interned inner Graph of parameters, with one result (see `item`) for each of its outputs.
# full: the shape that is looped over. outer: the dimensions of it that are independent points; the others are
# folded by the group's reductions. Made by passes.fuse.
FUSED = Primitive("fused", infer=_fused_type, eval=_unevaluated, facts=Fact.SYMBOLIC)


class _Entry(weakref.ref[Node]):
    """A node's place in the table, which it leaves when nothing else holds it. (A WeakValueDictionary is the same in
    Python code, and took half of the time that making a node takes.)"""

    __slots__ = ("key",)

    key: tuple[Any, ...]


def _forget(entry: Any) -> None:
    key = entry.key
    with _writing:
        if _interned.get(key) is entry:
            del _interned[key]


_interned: dict[tuple[Any, ...], _Entry] = {}
# What looks and then writes holds this, or two threads could make one node twice. Re-entrant, since a garbage
# collection may run `_forget` anywhere.
_writing = whole.lock()
_NO_ATTRS: Mapping[str, Any] = MappingProxyType({})


def _key(attrs: Mapping[str, Any]) -> Iterator[Any]:
    for name, value in attrs.items():
        yield name
        # 1 == 1.0 == True and 0.0 == -0.0, but they aren't the same attribute
        yield (value.hex(), "f") if type(value) is float else (value, type(value))


def make(op: Primitive, inputs: Sequence[Node], attrs: Mapping[str, Any], origin: Origin | None = None) -> Node:
    """The node of `op` on `inputs`; its type is inferred, so an ill-typed node never exists."""
    inputs = tuple(inputs)
    key = (op, inputs, *_key(attrs)) if attrs else (op, inputs)
    known = _interned.get(key)
    found = None if known is None else known()
    if found is not None:
        return found
    inferred = op.infer(*[n.type for n in inputs], **attrs)
    if not attrs:
        attrs = _NO_ATTRS
    elif type(attrs) is not MappingProxyType:  # another node's are frozen already
        attrs = MappingProxyType(dict(attrs))
    node = Node(op, inputs, attrs, inferred, origin or provenance.current())
    entry = _Entry(node, _forget)
    entry.key = key
    with _writing:
        known = _interned.get(key)  # another thread may have made it since the first look
        found = None if known is None else known()
        if found is not None:
            return found
        _interned[key] = entry
    return node


def fresh_input(name: str, type: TensorType, origin: Origin | None = None) -> Node:
    """A graph input unlike any other (not interned): provenance never mixes between traces."""
    return Node(INPUT, (), MappingProxyType({"name": name, "type": type}), type, origin or provenance.current())


def parameter(index: int, type: TensorType) -> Node:
    """The interned placeholder number `index` of an inner graph, so that equal inner graphs are one object."""
    return make(INPUT, (), {"name": f"p{index}", "type": type}, Origin())


def constant(value: npt.ArrayLike | Scalar, dtype: DType | None = None, origin: Origin | None = None) -> Node:
    """A constant of any shape."""
    array = np.asarray(value, dtype=None if dtype is None else dtype.numpy)
    return make(CONSTANT, (), {"value": Constant(array)}, origin)


def constant_value(node: Node) -> npt.NDArray[Any] | None:
    """The array of a constant node, else None."""
    return node.attrs["value"].array if node.op is CONSTANT else None


def topological(outputs: Sequence[Node], stop: frozenset[Node] | set[Node] = frozenset()) -> list[Node]:
    """Every node that `outputs` reach, operands before users, in a stable order. Iterative: any depth.

    Nodes of `stop` are listed, but not entered.
    """
    order: list[Node] = []
    seen: set[Node] = set()
    entered: set[Node] = set()  # seen, and waiting on the stack for their operands
    stack = list(reversed(outputs))
    while stack:
        node = stack[-1]
        if node in seen:
            stack.pop()
            if node in entered:
                entered.discard(node)
                order.append(node)
            continue
        seen.add(node)
        if not node.inputs or node in stop:
            stack.pop()
            order.append(node)
            continue
        entered.add(node)
        for operand in reversed(node.inputs):
            if operand not in seen:
                stack.append(operand)
    return order
