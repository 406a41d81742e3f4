"""Tracer: the interpreter while a function is being traced. Operations build nodes instead of computing.

Every tensor that the function touches becomes an input of the graph. What is written in place re-points the tensor
at a new node. `backward()` and the functional transforms leave `gradient` and `tangent` marks, which a pass expands.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.autodiff import cotangent_of_operand, default_seed
from graphc.captures import ArgumentSource, ArraySource, GradSource, NumberSource, Source, TensorSource
from graphc.dispatch import NUMBERS, SCALARS, as_nodes
from graphc.errors import AutodiffError, DTypeError, InplaceError, TraceError
from graphc.guards import PLAIN, is_internal
from graphc.interpreter import Hook, Interpreter, Operand, check_has_gradient
from graphc.ir.node import Node, constant, fresh_input, make, topological
from graphc.ir.origin import Origin, current, during
from graphc.ir.rewrite import substitute
from graphc.ops import elementwise as ew
from graphc.ops.marks import GRADIENT, LEAF, STOP_GRADIENT, TANGENT
from graphc.ops.movement import RESHAPE, SLICE, broadcast_to
from graphc.ops.patch import put_slice
from graphc.optim import optimizer as optim
from graphc.primitive import Primitive
from graphc.records import Leaf, Record, ViewOf, recording
from graphc.tensor import Tensor, wrap
from graphc.types import TensorType, dtype_of, float64
from graphc.watcher import Watcher


class TracedNumber(Tensor):
    """A Python float among the arguments: a 0-d float64 that promotes as weakly as the float would."""

    __slots__ = ()
    weak = True


class Mark:
    """The history of a traced tensor: that it has one, and which operation made it."""

    __slots__ = ("hooks", "op")

    def __init__(self, op: Primitive | None) -> None:
        self.op = op
        self.hooks: list[Callable[[Tensor], Tensor | None]] | None = None


_serial = itertools.count()
_KNOWN = (*PLAIN, tuple, np.ndarray)  # types whose values run no code of the user's


def _traced(node: Node, mark: Mark | None, kind: type[Tensor] = Tensor) -> Tensor:
    t = kind.__new__(kind)
    t._data = None  # type: ignore[assignment]
    t._node = node
    t._record = mark  # type: ignore[assignment]
    t._grad = t._view = t._version = None
    return t


class Tracer(Interpreter):
    """The interpreter while a function is being traced."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.refusal: TraceError | None = None
        self.inputs: list[Node] = []
        self.sources: list[Source] = []
        self.current: dict[int, Node] = {}  # id of a captured tensor -> its value now
        self.captured: dict[int, Tensor] = {}
        self.initial: dict[int, Node] = {}  # id of a captured tensor or traced argument -> its input
        self.grads: dict[int, tuple[Tensor, Tensor | None]] = {}
        self.leaves: list[tuple[Tensor, Node]] = []
        self.hooked: list[tuple[Tensor, Node, Mark]] = []
        self.stamps: dict[int, int] = {}  # id of a base -> when it was last written
        self.arguments: dict[int, int] = {}  # id of a traced argument -> its position
        self.given: dict[int, Tensor] = {}  # id of a tensor among the arguments -> what stands for it
        self.values: dict[int, Tensor] = {}  # id of a traced argument -> the tensor it stands for
        self.gradients: list[Tensor] = []  # what stands for the `.grad` of arguments
        self.owners: dict[int, Tensor] = {}  # id of a captured tensor's `.grad` -> that captured tensor
        self.arrays: dict[int, tuple[npt.NDArray[Any], Node]] = {}
        self.numbers: dict[tuple[int, Any], tuple[Any, Tensor]] = {}
        self.freed: set[Node] = set()  # what a backward() without retain_graph went through

    # ------------------------------------------------------------------------------------- inputs

    def add_input(self, name: str, type: TensorType, source: Source) -> Node:
        node = fresh_input(name, type)
        self.inputs.append(node)
        self.sources.append(source)
        return node

    def argument(self, position: int, value: Any) -> Any:
        """What stands for one leaf of the arguments; Python values other than floats stand for themselves."""
        if isinstance(value, Tensor):
            if value._data is None:
                raise TraceError(
                    f"argument {position} is a traced value of a call that is over (made at "
                    f"{value._node.origin.location if value._node is not None else '?'}); return it from there instead."
                )
            if id(value) in self.given:
                return self.given[id(value)]
            node = self.add_input(f"arg{position}", TensorType(value.shape, value.dtype), ArgumentSource(position))
            mark = None
            if value.requires_grad:
                mark = Mark(None)
            t = _traced(node, mark)
            if mark is not None:
                self.leaves.append((t, node))
            self.given[id(value)] = t
            self.values[id(t)] = value
        elif isinstance(value, np.ndarray):
            type_ = TensorType(value.shape, dtype_of(value.dtype))
            node = self.add_input(f"arg{position}", type_, ArgumentSource(position))
            t = _traced(node, None)
        elif type(value) is float:
            node = self.add_input(f"arg{position}", TensorType((), float64), ArgumentSource(position))
            t = _traced(node, None, TracedNumber)
        else:
            return value
        self.arguments[id(t)] = position
        self.initial[id(t)] = node
        return t

    def node(self, x: Any) -> Any:
        """The node that an operand stands for now (a Python number stands for itself)."""
        if type(x) in SCALARS or type(x) is Node:
            return x
        if not isinstance(x, Tensor):
            return self.node(self.created(wrap(np.asarray(x))))
        if x._view is not None and (x._node is None or x._view.stamp != self.stamps.get(id(x._view.base), 0)):
            n = self.node(x._view.base)
            for op, attrs in x._view.path:
                n = make(op, (n,), attrs)
            if x._node is None:
                return n
            x._node = n
            x._view.stamp = self.stamps.get(id(x._view.base), 0)
        if x._node is not None:
            return x._node
        found = self.current.get(id(x))
        return self.capture(x) if found is None else found

    def capture(self, x: Tensor) -> Node:
        """Lift a tensor from outside into an input."""
        if type(x._record) is Record:
            raise TraceError(
                f"the function uses a tensor {TensorType(x.shape, x.dtype)} from outside that has an eager history "
                f"(made by {x._record.op.name if x._record.op else '?'}): its derivative could not reach that history. "
                "Pass it as an argument, compute it inside, or detach() it."
            )
        owner = self.owners.get(id(x))
        source = TensorSource(x) if owner is None else GradSource(TensorSource(owner))
        node = self.add_input(f"captured{len(self.captured)}", TensorType(x.shape, x.dtype), source)
        self.captured[id(x)] = x
        self.current[id(x)] = self.initial[id(x)] = node
        if owner is None:
            self.watcher.tensor(x)
        if type(x._record) is Leaf:
            self.leaves.append((x, node))
        return node

    def created(self, tensor: Tensor) -> Tensor:
        """A tensor made of an array inside the function: a constant, unless the array is reachable from outside."""
        array = tensor._data
        if type(array) is not np.ndarray:
            raise TraceError("an array of another device can't be captured; pass it as an argument.")
        if array.size <= 1:
            tensor._node = constant(array)
        elif id(array) in self.arrays:
            tensor._node = self.arrays[id(array)][1]
        else:
            type_ = TensorType(array.shape, dtype_of(array.dtype))
            node = self.add_input(f"array{len(self.arrays)}", type_, ArraySource(array))
            self.arrays[id(array)] = (array, node)
            tensor._node = node
        tensor._data = None  # type: ignore[assignment]
        return tensor

    def look(self, tensor: Tensor, what: str) -> None:
        """Numbers from outside would be frozen in the compiled function, and stale when they change."""
        error = TraceError(
            f"{what} reads the numbers of a tensor from outside of the function that graphc.compile traces. "
            "Compute with the tensor itself, or pass the number as an argument."
        )
        self.refused(error)
        raise error

    def refused(self, error: TraceError) -> None:
        """Remembered: a handler in the traced function may swallow it, and the trace would keep that branch."""
        self.refusal = self.refusal or error

    def number(self, group: optim.ParamGroup, key: str | tuple[str, int]) -> Any:
        """A hyperparameter as an input (optim.Reader)."""
        source = NumberSource(group, key)
        value = group[key] if isinstance(key, str) else group[key[0]][key[1]]
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            return value
        found = self.numbers.get((id(group), key))
        if found is None:
            name = key if isinstance(key, str) else f"{key[0]}{key[1]}"
            node = self.add_input(name, TensorType((), float64), source)
            found = group, _traced(node, None, TracedNumber)
            self.numbers[id(group), key] = found
            self.watcher.number(group, key)
        return found[1]

    def option(self, group: optim.ParamGroup, name: str, test: Callable[[Any], Any]) -> Any:
        """A hyperparameter that decides the course of the step: guarded (optim.Reader)."""
        return self.watcher.option(group, name, test)

    def unwatched(self) -> AbstractContextManager[None]:
        """While graphc's own code runs, called from one line of the user's: its calls aren't the function's
        (optim.Reader)."""
        return self._unwatched(current())  # asked here: beneath a context manager, contextlib would be the user's line

    @contextmanager
    def _unwatched(self, origin: Origin) -> Iterator[None]:
        self.watcher.look_away()
        try:
            with during(origin):
                yield
        finally:
            self.watcher.look_again()

    # ------------------------------------------------------------------------------------ operations

    def composed(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if self.watcher.away or not (is_internal(function.__module__) and all(map(_known, (*args, *options.values())))):
            return function(*args, **options)
        with self.unwatched():
            return function(*args, **options)

    def evaluate(self, primitive: Primitive, operands: tuple[Any, ...], attrs: dict[str, Any]) -> Tensor:
        if self.watcher.away:
            return self._evaluate(primitive, operands, attrs)
        known = all(isinstance(x, Tensor) or type(x) in NUMBERS for x in operands)
        if not (known and is_internal(primitive.infer.__module__)):
            return self._evaluate(primitive, operands, attrs)  # may run code of the user's, which is watched
        self.watcher.look_away()
        try:
            return self._evaluate(primitive, operands, attrs)
        finally:
            self.watcher.look_again()

    def _evaluate(self, primitive: Primitive, operands: tuple[Any, ...], attrs: dict[str, Any]) -> Tensor:
        nodes: list[Any] = []
        wants = scalars = False
        weak = bool(operands)
        for x in operands:
            if isinstance(x, Tensor):
                wants = wants or x._record is not None
                weak = weak and x.weak
                own = x._node
                nodes.append(own if own is not None and x._view is None else self.node(x))
            else:
                scalars = True
                nodes.append(self.node(x))
        node = make(primitive, as_nodes(tuple(nodes)) if scalars else nodes, attrs)
        mark = None
        if wants and node.type.dtype.kind == "f" and primitive is not STOP_GRADIENT:
            if recording():
                mark = Mark(primitive)
            else:
                node = make(STOP_GRADIENT, (node,), {})
        kind = TracedNumber if weak and node.type.dtype is float64 and node.type.shape == () else Tensor
        result = _traced(node, mark, kind)
        if primitive.view and isinstance(operands[0], Tensor):
            self._note_view(result, operands[0], primitive, attrs)
        return result

    def _note_view(self, result: Tensor, source: Tensor, op: Primitive, attrs: dict[str, Any]) -> None:
        base = source._view.base if source._view is not None else source
        path = (*(source._view.path if source._view is not None else ()), (op, attrs))
        if op is RESHAPE and not _is_view(base, path):
            return
        result._view = ViewOf(base, path, self.stamps.get(id(base), 0))

    def assign(self, target: Tensor, value: Operand, what: str) -> None:
        base = target._view.base if target._view is not None else target
        if recording() and self._is_leaf(base):
            raise InplaceError(
                f"{what}: this tensor is a leaf that requires a gradient; changing it in place would lose its history. "
                "Do it under graphc.no_grad(), or on a copy (x.clone())."
            )
        if target._view is not None and any(op.name == "broadcast_to" for op, _ in target._view.path):
            raise InplaceError(f"{what}: the memory of a broadcast tensor is shared by its elements; copy it first.")
        new: Any = (
            value
            if isinstance(value, Tensor)
            else _traced(self.node(value) if type(value) not in SCALARS else constant(value, target.dtype), None)
        )
        dtype = target.dtype
        if what not in ("copy_", "fill_", "x[key] =") and "bif".index(new.dtype.kind) > "bif".index(dtype.kind):
            raise DTypeError(f"{what}: can't write {new.dtype.name} into {dtype.name}.")
        new = broadcast_to(ew.astype(new, dtype), target.shape)
        if target._view is not None:
            new = self._replaced(target, new)
        self.stamps[id(base)] = self.stamps.get(id(base), 0) + 1
        node = self.node(new)
        if base._record is not None and not recording():
            node = make(LEAF, (node,), {"serial": next(_serial)})
            if self._is_leaf(base):
                self.leaves.append((base, node))
        elif new._record is not None and recording() and base._node is not None:
            base._record = new._record
        if base._node is not None:
            base._node = node
        else:
            self.node(base)
            if new._record is not None and recording():
                raise InplaceError(
                    f"{what}: the compiled function writes a value with a history into a tensor from outside; "
                    "do it under graphc.no_grad(), or return the value."
                )
            self.current[id(base)] = node

    def _is_leaf(self, x: Tensor) -> bool:
        return x._record is not None and x._record.op is None

    def _replaced(self, target: Tensor, part: Tensor) -> Tensor:
        """The base with the viewed part replaced: each view operation's adjoint puts it back (as in tape.py)."""
        assert target._view is not None
        stages: list[Node] = [self.node(target._view.base)]
        path = target._view.path
        for op, attrs in path[:-1]:
            stages.append(make(op, (stages[-1],), attrs))
        value: Any = self.node(part)
        for (op, attrs), whole in zip(reversed(path), reversed(stages), strict=True):
            if op is SLICE:
                value = put_slice(whole, value, **attrs)
                continue
            ones = constant(np.ones((), value.dtype.numpy))
            ones = broadcast_to(ones, value.shape)
            covered = cotangent_of_operand(op, 0, ones, value, (whole,), attrs)
            placed = cotangent_of_operand(op, 0, value, value, (whole,), attrs)
            assert covered is not None
            assert placed is not None
            value = (
                placed
                if math.prod(whole.shape) == math.prod(placed.shape) and _bijective(op)
                else ew.where(ew.not_equal(covered, 0), placed, whole)
            )
        return _traced(value, part._record)  # type: ignore[arg-type]

    def detach(self, tensor: Tensor) -> Tensor:
        return self.evaluate(STOP_GRADIENT, (tensor,), {})

    # ----------------------------------------------------------------------------------- derivatives

    def variable(self, tensor: Tensor) -> Tensor:
        return _traced(make(LEAF, (self.node(tensor),), {"serial": next(_serial)}), Mark(LEAF))

    def pull(self, ys: Sequence[Tensor], seeds: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        out = []
        for x in variables:
            parts = [
                make(GRADIENT, (self.node(y), self.node(s), self.node(x)), {}) for y, s in zip(ys, seeds, strict=True)
            ]
            total: Any = parts[0]
            for part in parts[1:]:
                total = ew.add(total, part)
            out.append(self._derived(total, GRADIENT))
        return out

    def _derived(self, node: Node, op: Primitive) -> Tensor:
        """What a transform gives: with a history, unless under no_grad."""
        return _traced(node, Mark(op)) if recording() else _traced(make(STOP_GRADIENT, (node,), {}), None)

    def push(self, ys: Sequence[Tensor], variables: Sequence[Tensor], tangents: Sequence[Tensor]) -> list[Tensor]:
        xs = [self.node(x) for x in variables]
        ts = [self.node(t) for t in tangents]
        return [self._derived(make(TANGENT, (self.node(y), *xs, *ts), {}), TANGENT) for y in ys]

    def settled(self, y: Tensor, variables: Sequence[Tensor]) -> Tensor:
        return y if y._record is None or recording() else _traced(make(STOP_GRADIENT, (self.node(y),), {}), None)

    def backward(self, tensor: Tensor, gradient: Tensor | None, retain_graph: bool, create_graph: bool) -> None:
        if tensor._record is None:
            raise AutodiffError(
                "backward(): this tensor has no history: nothing it was computed from requires a gradient "
                "(see requires_grad_()), or it was computed under no_grad() or detached."
            )
        hooks = self.hooked or any(leaf._record is not None and leaf._record.hooks for leaf, _ in self.leaves)
        with nullcontext() if hooks else self.unwatched():  # a hook is the user's code
            self._sweep(tensor, gradient, retain_graph, create_graph)

    def _sweep(self, tensor: Tensor, gradient: Tensor | None, retain_graph: bool, create_graph: bool) -> None:
        y = self.node(tensor)
        seed = self.node(default_seed(tensor) if gradient is None else gradient)
        terms: list[tuple[Node, Node]] = [(y, seed)]
        order = differentiable(y)
        if not retain_graph:
            self.freed.update(n for n in order if n.inputs)
        place = {n: i for i, n in enumerate(order)}
        hooks = sorted(((place[n], n, m, t) for t, n, m in self.hooked if n in place), key=lambda h: -h[0])
        for _, node, mark, _owner in hooks:
            # cut the graph at the hooked node: what arrives there goes through the hooks, and on from there
            star = make(LEAF, (make(STOP_GRADIENT, (node,), {}),), {"serial": next(_serial)})
            terms = [(substitute((out,), {node: star})[0] if out is not node else node, s) for out, s in terms]
            g = _traced(_total([make(GRADIENT, (out, s, star), {}) for out, s in terms if out is not node]), None)
            for hook in tuple(mark.hooks or ()):
                replaced = hook(g)
                g = g if replaced is None else replaced
            terms.append((node, self.node(g)))
        by_leaf: dict[int, tuple[Tensor, list[Node]]] = {}
        for leaf, node in self.leaves:
            if node in place:
                by_leaf.setdefault(id(leaf), (leaf, []))[1].append(node)
        for leaf, nodes in by_leaf.values():
            parts = [make(GRADIENT, (out, s, n), {}) for n in nodes for out, s in terms]
            total = _total(parts)
            g = _traced(
                total if create_graph else make(STOP_GRADIENT, (total,), {}), Mark(GRADIENT) if create_graph else None
            )
            for hook in tuple(leaf._record.hooks or ()) if leaf._record is not None else ():
                replaced = hook(g)
                g = g if replaced is None else replaced
            before = self.grad_of(leaf)
            if before is None:
                self.set_grad(leaf, g)
            elif create_graph:
                self.set_grad(leaf, before + g)
            else:
                self.assign(before, ew.add(before, g), "backward()")

    def grad_of(self, tensor: Tensor) -> Tensor | None:
        found = self.grads.get(id(tensor))
        if found is not None:
            return found[1]
        if id(tensor) in self.values and tensor._grad is None:
            self._lift_grad(tensor)
        if tensor._node is not None:
            return tensor._grad
        self.watcher.grad(tensor, same=id(tensor._grad) in self.captured and id(tensor._grad) not in self.owners)
        if tensor._grad is not None and id(tensor._grad) not in self.captured:
            self.owners[id(tensor._grad)] = tensor
        return tensor._grad

    def _lift_grad(self, argument: Tensor) -> None:
        """Let the `.grad` that an argument comes with be an input."""
        before = self.values[id(argument)]._grad
        if before is None:
            return
        position = self.arguments[id(argument)]
        source = GradSource(ArgumentSource(position))
        node = self.add_input(f"grad of arg{position}", TensorType(before.shape, before.dtype), source)
        argument._grad = _traced(node, None)
        self.initial[id(argument._grad)] = node
        self.gradients.append(argument._grad)

    def set_grad(self, tensor: Tensor, grad: Tensor | None) -> None:
        self.grads[id(tensor)] = (tensor, grad)

    def require_grad(self, tensor: Tensor, required: bool) -> None:
        if tensor._node is None:
            if required != tensor.requires_grad:
                raise TraceError(
                    "requires_grad_ of a tensor from outside can't change while a function is being compiled."
                )
            return
        if required and tensor._record is None:
            check_has_gradient(tensor)
            tensor._node = make(LEAF, (self.node(tensor),), {"serial": next(_serial)})
            tensor._record = Mark(None)  # type: ignore[assignment]
            self.leaves.append((tensor, tensor._node))
        elif not required:
            tensor._record = None

    def hook(self, tensor: Tensor, function: Hook) -> Callable[[], None]:
        remove = super().hook(tensor, function)
        mark: Any = tensor._record
        if not self._is_leaf(tensor) and len(mark.hooks) == 1:
            self.hooked.append((tensor, self.node(tensor), mark))
        return remove

    def retain_grad(self, tensor: Tensor) -> None:
        def keep(g: Tensor) -> None:
            before = self.grad_of(tensor)
            self.set_grad(tensor, g if before is None else before + g)

        if not self._is_leaf(tensor):
            self.hook(tensor, keep)


def _known(x: Any) -> bool:
    """Whether an argument runs no code of the user's, whatever is done with it."""
    return is_internal(type(x).__module__) or isinstance(x, _KNOWN)


def _total(parts: Sequence[Node]) -> Node:
    total: Any = parts[0]
    for part in parts[1:]:
        total = ew.add(total, part)
    return total  # type: ignore[no-any-return]


def _bijective(op: Primitive) -> bool:
    return op.name in ("reshape", "permute_dims", "flip", "stop_gradient")


def _is_view(base: Tensor, path: Iterable[tuple[Primitive, dict[str, Any]]]) -> bool:
    """Whether these operations on a dense array all share its memory (reshape may have to copy)."""
    dense = np.lib.stride_tricks.as_strided(
        np.empty((), np.int8), base.shape, _dense_strides(base.shape), writeable=False
    )
    for op, attrs in path:
        if op is RESHAPE:
            dense = dense[...]
            try:
                dense = np.reshape(dense, attrs["shape"], copy=False)
            except ValueError:
                return False
        else:
            dense = op.eval(np, dense, **attrs)
    return True


def _dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def differentiable(y: Node) -> list[Node]:
    """The nodes whose change moves y, by differentiable paths; operands before users."""
    stops = {n for n in topological((y,)) if n.op is STOP_GRADIENT or n.type.dtype.kind != "f"}
    return [n for n in topological((y,), stops) if n not in stops]
