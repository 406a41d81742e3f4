"""Plain products of matrices among the nests, found by structure: what BLAS can do instead of a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.ir.expr import Affine, Axis

from .loop.ir import Load, Store, Var
from .loop.nest import Nest, contraction
from .program import MatmulCall, Place


def as_gemm(nest: Nest, places: Sequence[Place]) -> MatmulCall | None:
    """The product that `nest` computes, if it does nothing else: no epilogue, no mask, one row and one column axis.

    places: where the nest's params lie.
    """
    if len(nest.stages) != 2 or nest.locals or nest.messages:
        return None
    product, last = nest.stages
    found = contraction(product)
    if found is None or len(product.axes) != 1 or last.axes or last.lets or last.folds or len(last.stores) != 1:
        return None
    fold, left, right = found
    store = last.stores[0]
    if not isinstance(store, Store) or store.mask is not None or store.offset.dynamic or fold.var.dtype.kind != "f":
        return None
    if not isinstance(store.value, Var) or store.value != fold.var or not (_plain(left) and _plain(right)):
        return None
    where = {buffer.name: place for buffer, place in zip(nest.params, places, strict=True)}
    return _match(nest, product.axes[0], left, right, store, where)


def _plain(load: Load) -> bool:
    return load.mask is None and not load.offset.dynamic


def _match(
    nest: Nest, inner: Axis, left: Load, right: Load, store: Store, where: Mapping[str, Place]
) -> MatmulCall | None:
    a, b, c = left.offset.affine, right.offset.affine, store.offset.affine
    rows = [x for x in nest.outer if a.coefficient(x) and not b.coefficient(x)]
    columns = [x for x in nest.outer if b.coefficient(x) and not a.coefficient(x)]
    batches = [x for x in nest.outer if x not in rows and x not in columns]
    if len(rows) != 1 or len(columns) != 1 or len(batches) > 1:
        return None
    (row,), (column,) = rows, columns
    if c.coefficient(column) != 1:  # C.T = B.T @ A.T
        left, right, a, b, row, column = right, left, b, a, column, row
    if c.coefficient(column) != 1:
        return None
    at_a = _leading(a, row, inner)
    at_b = _leading(b, inner, column)
    if at_a is None or at_b is None or c.coefficient(row) < column.extent:
        return None
    if at_a[1] < (row.extent if at_a[0] else inner.extent) or at_b[1] < (inner.extent if at_b[0] else column.extent):
        return None
    batch = batches[0] if batches else None

    def step(at: Affine) -> int:
        return at.coefficient(batch) if batch else 0

    return MatmulCall(
        left.dtype,
        m=row.extent,
        n=column.extent,
        k=inner.extent,
        transpose_a=at_a[0],
        transpose_b=at_b[0],
        lda=at_a[1],
        ldb=at_b[1],
        ldc=c.coefficient(row),
        a=where[left.buffer.name],
        b=where[right.buffer.name],
        c=where[store.buffer.name],
        a_offset=a.const,
        b_offset=b.const,
        c_offset=c.const,
        batch=batch.extent if batch else 1,
        batch_a=step(a),
        batch_b=step(b),
        batch_c=step(c),
    )


def _leading(at: Affine, first: Axis, second: Axis) -> tuple[bool, int] | None:
    """(transposed, distance between rows) of a matrix indexed by (first, second), one of which has stride 1."""
    if at.coefficient(second) == 1 and at.coefficient(first) > 0:
        return False, at.coefficient(first)
    if at.coefficient(first) == 1 and at.coefficient(second) > 0:
        return True, at.coefficient(second)
    return None
