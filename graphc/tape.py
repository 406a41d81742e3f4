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

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from graphc import dispatch, recurring
from graphc.autodiff import cotangent_of_operand, default_seed, push
from graphc.bare import FLOAT32, SINGLES
from graphc.composed import house
from graphc.errors import (
    AutodiffError,
    DeviceError,
    DTypeError,
    GraphcError,
    InplaceError,
    ShapeError,
    TraceError,
)
from graphc.interpreter import Interpreter, Operand, check_has_gradient, install
from graphc.ir.origin import user_location
from graphc.ops import elementwise as ew
from graphc.ops.marks import LEAF, STOP_GRADIENT
from graphc.ops.movement import SLICE, broadcast_to
from graphc.ops.patch import put_slice
from graphc.primitive import Primitive
from graphc.records import (
    Leaf,
    Overwritten,
    Record,
    Version,
    Vertex,
    ViewOf,
    enable_grad,
    no_grad,
    thread,
    tick,
)
from graphc.sweeps import Numbers, Tensors, depends_on_others, leaves, reachable, release, sweep
from graphc.tensor import Tensor, as_tensor, wrap
from graphc.types import TensorType

_SCALARS = dispatch.SCALARS
_new = object.__new__
_array = np.array


class Tape(Interpreter):
    """The eager interpreter."""

    computes = True

    # --------------------------------------------------------------------------------------- forward

    def evaluate(self, primitive: Primitive, operands: tuple[Any, ...], attrs: dict[str, Any]) -> Tensor:
        arrays: tuple[Any, ...] | None = None
        sources: tuple[Record | Leaf | None, ...] = ()
        xp: Any = np
        modes = thread.modes
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
            record.stamp = tick()
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
        taped = thread.modes.recording and (
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
        if version.readers:
            version.keep()
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
            refresh(tensor)
        root = tensor._record
        if root is None:
            raise AutodiffError(
                "backward(): this tensor has no history: nothing it was computed from requires a gradient "
                "(see requires_grad_()), or it was computed under no_grad() or detached."
            )
        again: tuple[recurring.Trail, recurring.Sweep] | None = None
        if gradient is None and house.wanted and not create_graph and type(root) is Record:
            trail = None if thread.modes.anomaly or tensor._data.ndim else recurring.signature(root)
            if trail is not None:
                known = recurring.lookup(trail)
                if known.arrives(trail):
                    _replay(known, trail, retain_graph)
                    return
                again = trail, known
        seed = _seed(tensor, gradient)
        order = reachable((root,))
        ends = leaves(order)
        found = sweep(order, [(root, seed)], ends, None, create_graph)
        if again is not None:
            again[1].swept(again[0], found)
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
                return self.evaluate(LEAF, (tensor,), {"serial": tick()})
            fresh = wrap(tensor._data)
            fresh._record = Leaf(fresh)
            return fresh

    def pull(self, ys: Sequence[Tensor], seeds: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        vertices = [v._record for v in variables]
        pairs = [(y._record, s) for y, s in zip(ys, seeds, strict=True) if y._record is not None]
        differentiable = depends_on_others([v for v, _ in pairs], variables) or any(s.requires_grad for s in seeds)
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
        differentiable = depends_on_others(roots, variables) or any(t.requires_grad for t in tangents)
        if differentiable:
            with enable_grad():
                moved = push(reachable(roots), known, Tensors(thread.modes.anomaly))
        else:
            numbers = {v: t._data for v, t in known.items()}
            with dispatch.numbers(), np.errstate(all="ignore"):
                moved = push(reachable(roots), numbers, Numbers(thread.modes.anomaly))
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
        if y._record is None or depends_on_others([y._record], variables):
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
        check_has_gradient(tensor)
        tensor._record = Leaf(tensor)

    def detach(self, tensor: Tensor) -> Tensor:
        alias = wrap(tensor._data)
        _note_view(alias, tensor, STOP_GRADIENT, {})
        return alias

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
                refresh(x)
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
        entry.stamp = tick()
        entry.hooks = entry.overwritten = entry.location = None


# ------------------------------------------------------------------------------------------- views


def _note_view(result: Tensor, source: Any, primitive: Primitive, attrs: dict[str, Any]) -> None:
    """Remember that result shares memory with source, if it does."""
    if not isinstance(source, Tensor):
        return
    data, whole = result._data, source._data
    if type(data) is ndarray and data.base is None and data is not whole:
        return  # it owns its memory
    if not np.may_share_memory(data, whole):
        return
    above = source._view
    base = above.base if above is not None else source
    path = above.path if above is not None else ()
    if base._version is None:
        base._version = Version()
    result._version = source._version = base._version
    result._view = ViewOf(base, (*path, (primitive, attrs)), base._version.stamp)


def refresh(view: Tensor) -> None:
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
        if op is SLICE:
            part = put_slice(whole, part, **attrs)
            continue
        with no_grad():
            ones = wrap(np.ones(part.shape, part._data.dtype))
            covered = cotangent_of_operand(op, 0, ones, part, (whole,), attrs)
        placed = cotangent_of_operand(op, 0, part, part, (whole,), attrs)
        if placed is None or covered is None:
            raise InplaceError(f"writing through {op.name} can't be differentiated; write into the base instead.")
        part = ew.where(ew.not_equal(covered, 0), placed, whole)
    return part


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


def _replay(known: recurring.Sweep, trail: recurring.Trail, retain_graph: bool) -> None:
    """Leave the gradients in the leaves, by the kernel of a sweep that recurs."""
    assert known.run is not None
    arrays = known.run(*trail.inputs)
    for position, array in zip(known.reached, arrays, strict=True):
        leaf = trail.leaves[position].tensor()
        if leaf is None:
            continue
        if leaf._grad is None:
            leaf._grad = wrap(array)
        else:
            _accumulate(leaf, array, False, set())
    if not retain_graph:
        release(trail.order)


tape = Tape()
install(tape)
