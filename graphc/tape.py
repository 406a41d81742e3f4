"""Dynamic mode: every operation computes at once, and what must be remembered for derivatives is recorded.

A `Record` is one entry of the tape: the primitive, its operands and its result. `backward` orders the
records it can reach and hands them to autodiff.pull, whose rules then run on the recorded numbers.

Writing in place. `x += 1` computes x + 1 as a new record, overwrites the array and re-points x at the record.
A global clock stamps records and writes: a record that finds one of its values written after its own stamp
hands the rule a stand-in that knows its shape, and raises InplaceError naming the writer when it's read.

Views share their base's `Version` (the stamp of the last write). Writing into a view of a recorded base
re-points the base at "base with that part replaced", and views look up their history again when they are next used.
"""

from __future__ import annotations

import contextvars
import itertools
import operator
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy import ndarray

from graphc import dispatch
from graphc.autodiff import Carrier, cotangent_of_operand, default_seed, pull, push
from graphc.bare import FLOAT32, SINGLES
from graphc.errors import (
    AnomalyError,
    AutodiffError,
    DeviceError,
    DTypeError,
    GraphcError,
    InplaceError,
    ShapeError,
    TraceError,
)
from graphc.ir.origin import user_location
from graphc.ops import elementwise as ew
from graphc.ops.marks import LEAF, STOP_GRADIENT
from graphc.ops.movement import broadcast_to, sum_to
from graphc.primitive import Primitive, Value
from graphc.tensor import Hook, Interpreter, Operand, Tensor, as_tensor, install, wrap
from graphc.types import TensorType, dtype_of

_tick = itertools.count(1).__next__  # stamps records and writes
_last_write = 0  # the stamp of the latest write in place, of whichever tensor


class Version:
    """When and by what the memory that tensors share was last written."""

    __slots__ = ("stamp", "what", "where")

    def __init__(self) -> None:
        self.stamp = 0
        self.what = ""
        self.where: str | None = None

    def written(self, what: str, where: str | None) -> None:
        """Note a write, now."""
        global _last_write
        self.stamp = _last_write = _tick()
        self.what, self.where = what, where


class ViewOf:
    """That a tensor shares its base's memory: the operations that lead from the base to it."""

    __slots__ = ("base", "path", "stamp")

    def __init__(self, base: Tensor, path: tuple[tuple[Primitive, dict[str, Any]], ...], stamp: int) -> None:
        self.base = base
        self.path = path
        self.stamp = stamp  # the base's version when the tensor's record was made


class Record:
    """One entry of the tape. `operands`, `arrays` (their numbers) and `y` are None once a backward has used it up."""

    __slots__ = ("arrays", "attrs", "hooks", "location", "op", "operands", "overwritten", "sources", "stamp", "y")

    # No __init__: calling one takes longer than a small operation. evaluate() and record() set all of these.
    op: Primitive | None
    operands: tuple[Any, ...] | None
    arrays: tuple[Any, ...] | None
    sources: tuple[Record | Leaf | None, ...]
    attrs: dict[str, Any]
    y: Any
    stamp: int
    hooks: list[Callable[[Tensor], Tensor | None]] | None
    overwritten: Version | None
    location: str | None


class Leaf:
    """Where a derivative ends: a tensor that the user asked the gradient of."""

    __slots__ = ("__weakref__", "done", "hooks", "tensor")
    op = None
    attrs: Mapping[str, Any] = MappingProxyType({})
    sources: tuple[()] = ()
    stamp = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = weakref.ref(tensor)
        self.done = False  # a transform's own variable, whose function has run: nobody else differentiates by it
        self.hooks: list[Callable[[Tensor], Tensor | None]] | None = None


Vertex: TypeAlias = Record | Leaf


class Overwritten:
    """Stands for a value that is gone; its shape and dtype are still known."""

    requires_grad = False

    def __init__(self, array: npt.NDArray[Any], op: Primitive, version: Version) -> None:
        self.shape = array.shape
        self.dtype = dtype_of(array.dtype)
        self._message = (
            f"the derivative of {op.name} needs a value of shape {array.shape} that {version.what} at "
            f"{version.where or '?'} has overwritten. Write y = f(x) instead of changing x in place, "
            "or call x.clone() before."
        )

    def __array__(self, *_: object, **__: object) -> npt.NDArray[Any]:
        raise InplaceError(self._message)


class _Modes:
    """quiet: a context in which NumPy reports no floating-point errors (entering it costs a tenth of np.errstate)."""

    __slots__ = ("anomaly", "quiet", "recording", "sweep")

    def __init__(self) -> None:
        self.recording = True
        self.anomaly = False
        self.sweep = 0  # number of the reverse sweep that is running, 0 outside of any
        self.quiet = contextvars.copy_context()
        self.quiet.run(np.seterr, all="ignore")


class _Thread(threading.local):
    """The modes of each thread, in an object: one that is looked up once is read several times."""

    def __init__(self) -> None:
        self.modes = _Modes()


_thread = _Thread()
_sweeps = itertools.count(1)


def current_sweep() -> int:
    """The number of the reverse sweep that is running in this thread, 0 if none: no two are alike."""
    return _thread.modes.sweep


@contextmanager
def no_grad() -> Iterator[None]:
    """Within this context nothing is recorded: results require no gradient. Also a decorator."""
    before, _thread.modes.recording = _thread.modes.recording, False
    try:
        yield
    finally:
        _thread.modes.recording = before


@contextmanager
def enable_grad() -> Iterator[None]:
    """Recording again, inside of no_grad."""
    before, _thread.modes.recording = _thread.modes.recording, True
    try:
        yield
    finally:
        _thread.modes.recording = before


def recording() -> bool:
    """Whether operations are being recorded."""
    return _thread.modes.recording


def set_anomaly(on: bool) -> None:
    """Anomaly mode: records keep the user's line, and backward raises AnomalyError at the first nan it makes."""
    _thread.modes.anomaly = on


_SCALARS = dispatch.SCALARS
_new = object.__new__
_array = np.array


class Tape(Interpreter):
    """The eager interpreter."""

    # --------------------------------------------------------------------------------------- forward

    def evaluate(self, primitive: Primitive, operands: tuple[Any, ...], attrs: dict[str, Any]) -> Tensor:
        arrays: tuple[Any, ...] | None = None
        sources: tuple[Record | Leaf | None, ...] = ()
        xp: Any = np
        modes = _thread.modes
        ufunc = primitive.ufunc
        # The usual cases are written out: _read() gives the same, for operands of any number and kind.
        try:
            if len(operands) == 2:
                x, y = operands
                if isinstance(x, Tensor) and x._view is None and type(a := x._data) is ndarray:
                    if isinstance(y, Tensor):
                        if y._view is None and type(b := y._data) is ndarray:
                            arrays, sources = (a, b), (x._record, y._record)
                    elif type(y) in _SCALARS:
                        arrays, sources = (a, y), (x._record, None)
                        b = SINGLES[y] if a.dtype is FLOAT32 else y
                elif type(x) in _SCALARS and isinstance(y, Tensor) and y._view is None and type(y._data) is ndarray:
                    b = y._data
                    a = SINGLES[x] if b.dtype is FLOAT32 else x
                    arrays, sources = (x, b), (None, y._record)
                if arrays is not None and ufunc is not None:
                    out = modes.quiet.run(ufunc, a, b)
                    xp = None  # it is done
            elif len(operands) == 1:
                (x,) = operands
                if isinstance(x, Tensor) and x._view is None and type(a := x._data) is ndarray:
                    arrays, sources = (a,), (x._record,)
                    if ufunc is not None:
                        out = modes.quiet.run(ufunc, a)
                        xp = None  # it is done
            if xp is not None:
                if arrays is None:
                    operands, arrays, sources, xp = _read(primitive, operands)
                out = modes.quiet.run(primitive.eval, xp, *arrays, **attrs)
        except Exception as error:
            if arrays is None:
                raise
            out = _retried(primitive, xp, arrays, attrs, error)
        if type(out) is not ndarray and isinstance(out, np.generic):
            out = _array(out)
        result = _new(Tensor)
        result._data = out
        result._view = None  # the class says so too, but what the object itself says is read faster
        if modes.recording and any(sources) and out.dtype.kind == "f":
            result._record = record = Record()
            record.op = primitive
            record.operands = operands
            record.arrays = arrays
            record.sources = sources
            record.attrs = attrs
            record.y = out
            record.stamp = _tick()
            record.hooks = record.overwritten = record.location = None
            if modes.anomaly:
                record.location = user_location()
        else:
            result._record = None
        if primitive.view:
            _note_view(result, operands[0], primitive, attrs)
        return result

    # -------------------------------------------------------------------------------------- in place

    def assign(self, target: Tensor, value: Operand, what: str) -> None:
        if target._data is None:
            raise TraceError(f"{what}: this tensor belongs to a function that was being compiled.")
        taped = _thread.modes.recording and (
            target._record is not None or (isinstance(value, Tensor) and value.requires_grad)
        )
        root = target._view.base if target._view is not None else target
        if taped and type(root._record) is Leaf:
            raise InplaceError(
                f"{what}: this tensor is a leaf that requires a gradient; changing it in place would lose its history. "
                "Do it under graphc.no_grad(), or on a copy (x.clone())."
            )
        if target._version is None:
            target._version = root._version = Version()
        version = target._version
        if taped and isinstance(value, Tensor) and type(value._record) is Record:
            _keep_operand(value._record, target)
        source = value._data if isinstance(value, Tensor) else value
        if isinstance(source, np.ndarray) and np.may_share_memory(source, target._data) and source is not target._data:
            source = source.copy()
        if not target._data.flags.writeable:
            raise InplaceError(
                f"{what}: the memory of this tensor is read-only (a broadcast or a foreign array); copy it first."
            )
        try:
            np.copyto(target._data, source, casting="unsafe" if what in ("copy_", "fill_", "x[key] =") else "same_kind")
        except (ValueError, TypeError) as error:
            kind = DTypeError if isinstance(error, TypeError) else ShapeError
            got = f"{np.asarray(source).dtype}{np.shape(source)}"
            raise kind(f"{what}: can't write {got} into {target.dtype.name}{target.shape}.") from None
        if taped:
            new = value if isinstance(value, Tensor) else wrap(np.asarray(value, target._data.dtype))
            new = ew.astype(new, target.dtype)
            if new.shape != target.shape:
                new = broadcast_to(new, target.shape)
            if target._view is not None:
                new = _replaced(target._view, new)
        for tensor in (target, root):
            if type(tensor._record) is Record:
                tensor._record.overwritten = Version()
                tensor._record.overwritten.written(what, user_location())
        version.written(what, user_location())
        if taped:
            # a record of its own, so that later writes don't reach the numbers that `new` remembers
            root._record = new._record

    # ----------------------------------------------------------------------------------- derivatives

    def backward(self, tensor: Tensor, gradient: Tensor | None, retain_graph: bool, create_graph: bool) -> None:
        if tensor._view is not None:
            _refresh(tensor)
        root = tensor._record
        if root is None:
            raise AutodiffError(
                "backward(): this tensor has no history: nothing it was computed from requires a gradient "
                "(see requires_grad_()), or it was computed under no_grad() or detached."
            )
        seed = _seed(tensor, gradient)
        order = reachable((root,))
        leaves = _leaves(order)
        found = sweep(order, [(root, seed)], leaves, None, create_graph)
        given = {id(seed._data)}  # arrays that somebody holds
        for vertex, g in found.items():
            leaf = vertex.tensor()  # type: ignore[union-attr]
            if leaf is not None:
                _accumulate(leaf, g, create_graph, given)
        if not retain_graph:
            release(order)

    def look(self, tensor: Tensor, what: str) -> None:
        """On the tape numbers are there to be seen."""

    def refused(self, error: TraceError) -> None:
        """Nothing is being traced here: the tensor leaked from somewhere that was."""

    def created(self, tensor: Tensor) -> Tensor:
        return tensor

    def grad_of(self, tensor: Tensor) -> Tensor | None:
        return tensor._grad

    def set_grad(self, tensor: Tensor, grad: Tensor | None) -> None:
        if grad is not None and (not isinstance(grad, Tensor) or grad.shape != tensor.shape):
            raise ShapeError(f"grad: needs a tensor of shape {tensor.shape} or None, got {grad!r}.")
        tensor._grad = grad

    # -------------------------------------------------------------------------- functional transforms

    def variable(self, tensor: Tensor) -> Tensor:
        with enable_grad():
            if tensor._record is not None:
                return self.evaluate(LEAF, (tensor,), {"serial": _tick()})
            fresh = wrap(tensor._data)
            fresh._record = Leaf(fresh)
            return fresh

    def pull(self, ys: Sequence[Tensor], seeds: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        vertices = [v._record for v in variables]
        pairs = [(y._record, s) for y, s in zip(ys, seeds, strict=True) if y._record is not None]
        differentiable = _depends_on_others([v for v, _ in pairs], variables) or any(s.requires_grad for s in seeds)
        order = reachable([v for v, _ in pairs])
        wanted = {v for v in vertices if v is not None}
        active = set(wanted)
        for made in order:
            if any(s in active for s in made.sources):
                active.add(made)
        found = sweep(order, pairs, wanted, active, differentiable)
        out = []
        for vertex, x in zip(vertices, variables, strict=True):
            g = found.get(vertex) if vertex is not None else None
            if g is None:
                out.append(wrap(np.zeros_like(x._data)))
            else:
                out.append(g if isinstance(g, Tensor) else wrap(np.array(g, dtype=x._data.dtype)))
        return out

    def push(self, ys: Sequence[Tensor], variables: Sequence[Tensor], tangents: Sequence[Tensor]) -> list[Tensor]:
        roots = [y._record for y in ys if y._record is not None]
        known: dict[Vertex, Any] = {
            x._record: t for x, t in zip(variables, tangents, strict=True) if x._record is not None
        }
        differentiable = _depends_on_others(roots, variables) or any(t.requires_grad for t in tangents)
        if differentiable:
            with enable_grad():
                moved = push(reachable(roots), known, _Tensors(_thread.modes.anomaly))
        else:
            numbers = {v: t._data for v, t in known.items()}
            with dispatch.numbers(), np.errstate(all="ignore"):
                moved = push(reachable(roots), numbers, _Numbers(_thread.modes.anomaly))
        out = []
        for y in ys:
            t = moved.get(y._record) if y._record is not None else None
            if t is None:
                t = np.zeros_like(y._data)
            out.append(t if isinstance(t, Tensor) else wrap(np.array(t, dtype=y._data.dtype)))
        return out

    def settled(self, y: Tensor, variables: Sequence[Tensor]) -> Tensor:
        for x in variables:
            if type(x._record) is Leaf:
                x._record.done = True
        if y._record is None or _depends_on_others([y._record], variables):
            return y
        return wrap(y._data)

    def require_grad(self, tensor: Tensor, required: bool) -> None:
        if required == tensor.requires_grad:
            return
        if not required:
            if type(tensor._record) is Record:
                raise AutodiffError("requires_grad_(False): this tensor is not a leaf; use x.detach().")
            tensor._record = None
            return
        if tensor.dtype.kind != "f":
            raise DTypeError(
                f"requires_grad_(): only floating tensors have gradients, this one is {tensor.dtype.name}."
            )
        tensor._record = Leaf(tensor)

    def detach(self, tensor: Tensor) -> Tensor:
        alias = wrap(tensor._data)
        _note_view(alias, tensor, STOP_GRADIENT, {})
        return alias

    def hook(self, tensor: Tensor, function: Hook) -> Callable[[], None]:
        vertex = tensor._record
        if vertex is None:
            raise AutodiffError("register_hook(): this tensor requires no gradient, so the hook would never run.")
        if vertex.hooks is None:
            vertex.hooks = []
        hooks = vertex.hooks
        hooks.append(function)

        def remove() -> None:
            if function in hooks:
                hooks.remove(function)

        return remove

    def retain_grad(self, tensor: Tensor) -> None:
        if type(tensor._record) is Record:
            kept = weakref.ref(tensor)

            def keep(g: Tensor) -> None:
                owner = kept()
                if owner is not None:
                    owner._grad = g if owner._grad is None else owner._grad + g

            self.hook(tensor, keep)


def _read(
    primitive: Primitive, operands: tuple[Any, ...]
) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Record | Leaf | None, ...], Any]:
    """(operands as Tensors and Python numbers, their arrays, what made them, the array library that holds them)."""
    operands = tuple([_operand(x) for x in operands])
    arrays = []
    sources: list[Record | Leaf | None] = []
    xp: Any = np
    for x in operands:
        if isinstance(x, Tensor):
            if x._record is not None and x._view is not None:
                _refresh(x)
            if type(x._data) is not ndarray:
                xp = _namespace(primitive, x)
            arrays.append(x._data)
            sources.append(x._record)
        else:
            arrays.append(x)
            sources.append(None)
    return operands, tuple(arrays), tuple(sources), xp


def _namespace(primitive: Primitive, x: Tensor) -> Any:
    """The array library of a tensor that NumPy doesn't hold. Raises TraceError for one that has no numbers."""
    if x._data is None:
        raise TraceError(
            f"{primitive.name}: an operand belongs to a function that was being compiled "
            f"(made at {x._node.origin.location if x._node else '?'}); return it from there instead."
        )
    return dispatch.array_namespace((x._data,))


def _retried(primitive: Primitive, xp: Any, arrays: Sequence[Any], attrs: dict[str, Any], error: Exception) -> Any:
    """What to do when an evaluation raised: raise the operation's own error, unless it was only called from another."""
    if isinstance(error, RuntimeError) and "already entered" in str(error):
        return primitive.eval(xp, *arrays, **attrs)  # inside of an operation that is written in operations
    if isinstance(error, GraphcError):
        raise error
    raise _explained(primitive, arrays, attrs, error) from None


def _keep_operand(record: Record, target: Tensor) -> None:
    """Before target is overwritten by record's result: let the record hold what target was, not what it will be.

    A copy of its numbers if the rules need them, else a stand-in: target will point to the record, and a record that
    pointed back would live until the garbage collector finds the two.
    """
    if record.operands is None or record.arrays is None:
        return
    uses = [x is target for x in record.operands]
    others = any(s is not None and not own for s, own in zip(record.sources, uses, strict=True))
    once = uses.count(True) == 1
    additive = record.op is ew.ADD or record.op is ew.SUBTRACT
    unread = additive or ((record.op is ew.MULTIPLY or record.op is ew.DIVIDE) and once and not others)
    kept = _stand_in(target)
    if not unread:
        kept._data, kept._version = target._data.copy(), None
    record.operands = tuple([kept if own else x for x, own in zip(record.operands, uses, strict=True)])
    record.arrays = tuple([kept._data if own else a for a, own in zip(record.arrays, uses, strict=True)])


def _stand_in(tensor: Tensor) -> Tensor:
    """The same numbers, version and history, which stays when the tensor's own changes."""
    alias = wrap(tensor._data)
    alias._record, alias._version = tensor._record, tensor._version
    return alias


def _operand(x: Any) -> Any:
    """A Tensor or a Python number from whatever was passed as an operand."""
    if isinstance(x, Tensor) or type(x) in _SCALARS:
        return x
    if isinstance(x, Overwritten):
        x.__array__()
    return as_tensor(x)


def _explained(primitive: Primitive, arrays: Sequence[Any], attrs: dict[str, Any], error: Exception) -> Exception:
    """The operation's own error for these operands, rather than NumPy's."""
    if len({"cuda" if hasattr(a, "__cuda_array_interface__") else "cpu" for a in arrays if hasattr(a, "dtype")}) > 1:
        return DeviceError(f"{primitive.name}: operands are on different devices; move one with x.to(device).")
    try:
        primitive.infer(*[TensorType(np.shape(a), dispatch.dtype_of_value(a)) for a in arrays], **attrs)
    except GraphcError as teaching:
        return teaching
    return error


def record(primitive: Primitive, operands: Sequence[Any], result: Tensor) -> None:
    """Put on the tape that `result` is primitive(*operands), computed elsewhere."""
    if any(isinstance(x, Tensor) and x._record is not None for x in operands):
        arrays = tuple([x._data if isinstance(x, Tensor) else x for x in operands])
        sources = tuple([x._record if isinstance(x, Tensor) else None for x in operands])
        result._record = entry = Record()
        entry.op = primitive
        entry.operands = tuple(operands)
        entry.arrays = arrays
        entry.sources = sources
        entry.attrs = {}
        entry.y = result._data
        entry.stamp = _tick()
        entry.hooks = entry.overwritten = entry.location = None


# ------------------------------------------------------------------------------------------- views


def _note_view(result: Tensor, source: Any, primitive: Primitive, attrs: dict[str, Any]) -> None:
    """Remember that result shares memory with source, if it does."""
    if not isinstance(source, Tensor) or not np.may_share_memory(result._data, source._data):
        return
    above = source._view
    base = above.base if above is not None else source
    path = above.path if above is not None else ()
    if base._version is None:
        base._version = Version()
    result._version = source._version = base._version
    result._view = ViewOf(base, (*path, (primitive, attrs)), base._version.stamp)


def _refresh(view: Tensor) -> None:
    """Look the history of a view up again if its base was written to since."""
    link = view._view
    assert link is not None
    assert view._version is not None
    if link.stamp == view._version.stamp:
        return
    fresh: Any = link.base
    for op, attrs in link.path:
        fresh = dispatch.apply(op, fresh, **attrs)
    view._record = fresh._record
    link.stamp = view._version.stamp


def _replaced(link: ViewOf, part: Tensor) -> Tensor:
    """The base with the viewed part replaced by `part`, recorded: each view operation's adjoint puts it back."""
    stages = [_stand_in(link.base)]
    with np.errstate(all="ignore"):
        for op, attrs in link.path[:-1]:
            stages.append(dispatch.apply(op, stages[-1], **attrs))
    for (op, attrs), whole in zip(reversed(link.path), reversed(stages), strict=True):
        with no_grad():
            ones = wrap(np.ones(part.shape, part._data.dtype))
            covered = cotangent_of_operand(op, 0, ones, part, (whole,), attrs)
        placed = cotangent_of_operand(op, 0, part, part, (whole,), attrs)
        if placed is None or covered is None:
            raise InplaceError(f"writing through {op.name} can't be differentiated; write into the base instead.")
        part = ew.where(ew.not_equal(covered, 0), placed, whole)
    return part


# --------------------------------------------------------------------------------- the reverse sweep


class _Numbers(Carrier[Vertex]):
    """Reads records as raw arrays: the gradient is numbers, and nothing more is recorded."""

    add = np.add
    multiply = np.multiply
    sources = staticmethod(operator.attrgetter("sources"))  # type: ignore[assignment]

    def __init__(self, anomaly: bool) -> None:
        self.anomaly = _Anomaly() if anomaly else None

    def values(self, vertex: Vertex) -> tuple[Value, Sequence[Value]]:
        arrays = vertex.arrays  # type: ignore[union-attr]
        if arrays is not None and vertex.stamp > _last_write:
            return vertex.y, arrays  # type: ignore[union-attr]
        assert type(vertex) is Record
        arrays = _present(vertex)
        y = vertex.y
        if vertex.overwritten is not None:
            y = Overwritten(y, vertex.op, vertex.overwritten)  # type: ignore[arg-type]
        return y, [_current(vertex, x, array) for x, array in zip(vertex.operands or (), arrays, strict=True)]

    def ahead(
        self,
        rest: Iterator[Vertex],
        cotangents: dict[Vertex, Value],
        wanted: Collection[Vertex],
        strong: Collection[Vertex],
        active: Collection[Vertex] | None,
    ) -> Vertex | None:
        """Hands down through elementwise operations and those of one operand, on NumPy arrays: see pull().

        Everything that isn't plain is left to pull(): hooks, what was overwritten or freed, other array libraries.
        """
        if self.anomaly is not None:
            return next(rest, None)
        numbers = dispatch.NUMBERS
        product: Any = np.multiply
        plus: Any = np.add
        for vertex in rest:
            g = cotangents.get(vertex)
            if g is None:
                continue
            op: Any = vertex.op
            if op is None or vertex.hooks or vertex.stamp <= _last_write or vertex in wanted or vertex in strong:
                return vertex
            rules = op.numeric
            xs = vertex.arrays  # type: ignore[union-attr]
            if xs is None or type(g) not in numbers:
                return vertex
            c: Any  # what an operand is handed
            y, dtype, number, pair = vertex.y, g.dtype, -1, len(xs) == 2  # type: ignore[union-attr]
            if rules is None:
                if len(xs) != 1 or op.selects:
                    return vertex
                (source,) = vertex.sources
                del cotangents[vertex]
                if source is not None and (active is None or source in active):
                    c = cotangent_of_operand(op, 0, g, y, xs, vertex.attrs, product)
                    if c is not None:
                        before = cotangents.get(source)
                        cotangents[source] = c if before is None else plus(before, c)
                continue
            del cotangents[vertex]
            for source in vertex.sources:
                number += 1
                if source is None or (active is not None and source not in active):
                    continue
                rule = rules[number]
                if rule is None:
                    continue
                # written out: a call with *xs takes as long as a small product
                partial = rule(y, xs[0], xs[1]) if pair else rule(y, *xs)
                kind = type(partial)
                if kind is ndarray:
                    c = product(g, partial)
                elif kind is int and (partial == 1 or partial == -1):
                    c = g if partial == 1 else np.negative(g)
                else:
                    c = product(g, SINGLES[partial] if kind is float and dtype is FLOAT32 else partial)
                if c.dtype is not dtype:  # Python numbers became NumPy's double on the way: then as it is written
                    c = cotangent_of_operand(op, number, g, y, xs, vertex.attrs, product)
                elif c.shape != xs[number].shape:
                    c = sum_to(c, xs[number].shape)
                before = cotangents.get(source)
                cotangents[source] = c if before is None else plus(before, c)
        return None

    def arrived(self, vertex: Vertex, cotangent: Value) -> Value:
        if self.anomaly is not None:
            self.anomaly.check(vertex, cotangent)
        if vertex.hooks:
            g = wrap(np.array(cotangent))  # hooks may keep it: their own copy
            for hook in tuple(vertex.hooks):
                g = _hooked(hook, g)
            return g._data.copy()
        return cotangent


class _Tensors(Carrier[Vertex]):
    """Reads records as Tensors: the gradient is recorded in turn, so it can be differentiated again."""

    def __init__(self, anomaly: bool) -> None:
        self.anomaly = _Anomaly() if anomaly else None

    def sources(self, vertex: Vertex) -> Sequence[Vertex | None]:
        return vertex.sources

    def values(self, vertex: Vertex) -> tuple[Value, Sequence[Value]]:
        assert type(vertex) is Record
        _present(vertex)
        xs = [_current(vertex, x, x) for x in vertex.operands or ()]
        if vertex.overwritten is not None:
            return Overwritten(vertex.y, vertex.op, vertex.overwritten), xs  # type: ignore[arg-type]
        y = wrap(vertex.y)
        y._record = vertex
        return y, xs

    def arrived(self, vertex: Vertex, cotangent: Value) -> Value:
        if self.anomaly is not None:
            self.anomaly.check(vertex, cotangent._data)
        for hook in tuple(vertex.hooks or ()):
            cotangent = _hooked(hook, cotangent)
        return cotangent


def _hooked(hook: Hook, g: Tensor) -> Tensor:
    """What a hook makes of a gradient. Raises AutodiffError if it returns something that can't take its place."""
    replaced = hook(g)
    if replaced is None:
        return g
    if not isinstance(replaced, Tensor) or replaced.shape != g.shape or replaced.dtype is not g.dtype:
        got = f"{replaced.dtype.name}{replaced.shape}" if isinstance(replaced, Tensor) else type(replaced).__name__
        raise AutodiffError(f"a hook must return None or a tensor {g.dtype.name}{g.shape} as it was given, not {got}.")
    return replaced


def _current(record: Record, x: Any, value: Value) -> Value:
    """`value`, which is the operand x's; or a stand-in if x was written to since the record was made."""
    version = x._version if isinstance(x, Tensor) else None
    if version is None or version.stamp <= record.stamp:
        return value
    return Overwritten(x._data, record.op, version)  # type: ignore[arg-type]


def _present(record: Record) -> tuple[Any, ...]:
    if record.arrays is None:
        raise AutodiffError(
            "the tape of this computation was freed by an earlier backward(). To differentiate it twice, call "
            "backward(retain_graph=True) the first time, or compute it again."
        )
    return record.arrays


class _Anomaly:
    """Finds the first nan of a sweep and the operations whose derivative made it."""

    def __init__(self) -> None:
        self._ran: list[Vertex] = []  # each of these has handed its cotangent down

    def check(self, vertex: Vertex, cotangent: Any) -> None:
        """Called with each complete cotangent. Raises AnomalyError for one that has nan."""
        if not np.isnan(cotangent).any():
            self._ran.append(vertex)
            return
        users = [v for v in self._ran if vertex in v.sources and v.op is not None]
        makers = ", ".join(f"{v.op.name} (computed at {getattr(v, 'location', None) or '?'})" for v in users if v.op)
        raise AnomalyError(
            f"backward: the derivative of {makers} is nan."
            if makers
            else "backward: the gradient that backward() was given has nan."
        )


def reachable(roots: Sequence[Vertex]) -> list[Vertex]:
    """Every vertex the roots reach, operands before users. Iterative."""
    seen: set[Vertex | None] = {None, *roots}
    order = list(dict.fromkeys(roots))
    for vertex in order:  # which grows
        for source in vertex.sources:
            if source not in seen:
                seen.add(source)
                order.append(source)  # type: ignore[arg-type]
    order.sort(key=_stamp)
    return order


_stamp = operator.attrgetter("stamp")


def _leaves(order: Sequence[Vertex]) -> set[Vertex]:
    """The leaves among what `reachable` gave: their stamp is 0, so they come first."""
    found: set[Vertex] = set()
    for vertex in order:
        if vertex.op is not None:
            break
        found.add(vertex)
    return found


def sweep(
    order: Sequence[Vertex],
    seeds: Sequence[tuple[Vertex, Tensor]],
    wanted: Collection[Vertex],
    active: Collection[Vertex] | None,
    create_graph: bool,
) -> dict[Vertex, Any]:
    """Cotangents of the wanted vertices: Tensors if create_graph, else arrays. order, active: see autodiff.pull."""
    before, _thread.modes.sweep = _thread.modes.sweep, next(_sweeps)
    try:
        return _swept(order, seeds, wanted, active, create_graph)
    finally:
        _thread.modes.sweep = before


def _swept(
    order: Sequence[Vertex],
    seeds: Sequence[tuple[Vertex, Tensor]],
    wanted: Collection[Vertex],
    active: Collection[Vertex] | None,
    create_graph: bool,
) -> dict[Vertex, Any]:
    cotangents: dict[Vertex, Any] = {}
    for vertex, seed in seeds:
        g = seed if create_graph else seed._data
        cotangents[vertex] = g if vertex not in cotangents else cotangents[vertex] + g
    if create_graph:
        with enable_grad():
            return pull(order, cotangents, _Tensors(_thread.modes.anomaly), wanted, active)
    # NumPy's errors are silenced by the prepared context; hooks are the user's code, and run in it too
    return _thread.modes.quiet.copy().run(_pull_numbers, order, cotangents, wanted, active)


def _depends_on_others(roots: Sequence[Vertex], variables: Sequence[Tensor]) -> bool:
    """Whether anything but the variables of this transform could be differentiated by, outside of it."""
    if not _thread.modes.recording:
        return False
    own = {id(v._record) for v in variables}
    return any(type(v) is Leaf and id(v) not in own and not v.done for v in reachable(roots))


def _pull_numbers(
    order: Sequence[Vertex],
    cotangents: dict[Vertex, Any],
    wanted: Collection[Vertex],
    active: Collection[Vertex] | None,
) -> dict[Vertex, Any]:
    with dispatch.numbers():
        return pull(order, cotangents, _Numbers(_thread.modes.anomaly), wanted, active)


def release(order: Sequence[Vertex]) -> None:
    """Free what the records remember."""
    for vertex in order:
        if type(vertex) is Record:
            vertex.operands = vertex.arrays = vertex.y = None


def _seed(tensor: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        data = tensor._data
        if type(data) is ndarray and data.ndim == 0 and data.dtype.kind == "f":
            return wrap(np.array(1, data.dtype))
        return as_tensor(np.asarray(default_seed(tensor)))
    if gradient.shape != tensor.shape:
        raise ShapeError(f"backward(): the cotangent has shape {gradient.shape}, the result {tensor.shape}.")
    return gradient


def _accumulate(leaf: Tensor, g: Any, create_graph: bool, given: set[int]) -> None:
    """leaf.grad += g. An array that others hold too is copied, so that writing to one grad never shows in another."""
    if create_graph:
        if leaf._grad is not None:
            leaf._grad = leaf._grad + g
            return
        leaf._grad = g if id(g._data) not in given and g._data.base is None else g.clone()
        given.add(id(leaf._grad._data))
        return
    data = leaf._data
    array = g if type(g) is type(data) and g.dtype is data.dtype else np.asarray(g, dtype=data.dtype)
    if leaf._grad is not None:
        with no_grad():
            leaf._grad.add_(wrap(array))
        return
    if array.base is not None or id(array) in given:
        array = array.copy()
    given.add(id(array))
    leaf._grad = wrap(array)


tape = Tape()
install(tape)
