"""Nests with fewer axes and fewer names, of the same meaning."""

from __future__ import annotations

import numpy as np

from graphc.ir.expr import Axis, Call, Index, Literal, affine
from graphc.ir.node import make, parameter
from graphc.ops import elementwise
from graphc.runtime.loop.interp import run_nest
from graphc.runtime.loop.ir import Buffer, Let, Load, Offset, Store, Var
from graphc.runtime.loop.lower import lower_node
from graphc.runtime.loop.nest import Fold, Nest, Stage
from graphc.runtime.loop.schedule.collapse import collapse
from graphc.types import TensorType, bool_, float32, int64


def test_contiguous_axes_become_one() -> None:
    x, y = (parameter(i, TensorType((4, 5, 6), float32)) for i in range(2))
    nest = collapse(lower_node(make(elementwise.ADD, (x, y), {})))
    assert [axis.extent for axis in nest.outer] == [120]


def test_a_condition_bound_before_a_sum_is_decided_in_its_loops() -> None:
    """A strided 1x1 convolution's input gradient: where no output was computed from an element, nothing is summed."""
    i, j = Axis("i", 6), Axis("j", 5)
    x, y = Buffer("x", float32, 30), Buffer("y", float32, 6)
    v, w, f = Var("v", bool_), Var("w", bool_), Var("f", float32)
    some = Call("lt", (Index(affine(i)), Literal(3, int64)), bool_)
    value = Load(x, Offset(i * 5 + j), v)
    for kept in (False, True):  # whether a stage without a sum needs the condition too
        last = Call("select", (v, f, Literal(7.0, float32)), float32) if kept else f
        stages = (
            Stage(lets=(Let(v, some), Let(w, Call("not", (v,), bool_)))),
            Stage(axes=(j,), folds=(Fold(f, "sum", value),)),
            Stage(stores=(Store(y, Offset(affine(i)), last),)),
        )
        nest = Nest("conditions", (x, y), (i,), stages)
        found = collapse(nest)
        (stage,) = [stage for stage in found.stages if stage.folds]
        assert stage.folds[0].value == Load(x, Offset(i * 5 + j), some)
        bound = [let.var.name for stage in found.stages for let in stage.lets]
        assert bound == (["v"] if kept else []), "what nobody needs any more is gone"
        numbers = np.arange(30, dtype=np.float32)
        results = []
        for form in (nest, found):
            arrays = {"x": numbers.copy(), "y": np.zeros(6, np.float32)}
            assert run_nest(form, arrays) == 0
            results.append(arrays["y"])
        np.testing.assert_array_equal(*results)
