"""The graph's interpreter says what every pass may change: exact ones no bit, others some ulps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import graphc as gc
from graphc.ir.evaluate import evaluate
from graphc.ir.graph import Graph
from graphc.ir.rewrite import rewrite
from graphc.ir.verify import verify
from graphc.passes import contract, pipeline, simplify, stabilise
from graphc.passes.fuse import fuse
from graphc.trace import trace
from graphc.tree import flatten
from tests.graphs import arguments, assert_same_bits, graphs
from tests.programs import random_program

seeds = st.integers(0, 2**32 - 1)
patient = [HealthCheck.too_slow, HealthCheck.data_too_large]
slowly = settings(max_examples=150, deadline=None, suppress_health_check=patient)

EXACT = [rule for rule in simplify.RULES if rule.exact]


@given(graphs(), seeds)
@slowly
def test_exact_rules_change_no_bit(graph: Graph, seed: int) -> None:
    after = verify(rewrite(graph, EXACT))
    numbers = arguments(graph, seed)
    assert_same_bits(evaluate(after, numbers), evaluate(graph, numbers))


@given(graphs(), seeds)
@slowly
def test_simplify_changes_no_more_than_the_sign_of_zeros(graph: Graph, seed: int) -> None:
    after = verify(simplify.simplify(graph))
    numbers = arguments(graph, seed)
    for got, want in zip(evaluate(after, numbers), evaluate(graph, numbers), strict=True):
        assert got.dtype == want.dtype
        # an infinity's sign may be that of a zero that was divided by
        floating = got.dtype.kind == "f"
        np.testing.assert_array_equal(np.abs(got) if floating else got, np.abs(want) if floating else want)


@given(graphs(numbers=(0.5, 2.0, -1.0, 1.0), polynomial=True), seeds)
@slowly
def test_contraction_keeps_the_numbers(graph: Graph, seed: int) -> None:
    after = verify(contract.contract(graph))
    numbers = arguments(graph, seed, special=False)
    with np.errstate(all="ignore"):
        wanted = evaluate(graph, numbers)
        assume(all(np.isfinite(w).all() and np.abs(w).max(initial=0) < 1e6 for w in wanted if w.dtype.kind == "f"))
    for got, want in zip(evaluate(after, numbers), wanted, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@given(graphs())
@slowly
@pytest.mark.parametrize("run", [simplify.simplify, stabilise.stabilise, contract.contract], ids=lambda f: f.__name__)
def test_a_second_run_changes_nothing(run: Any, graph: Graph) -> None:
    once = run(graph)
    assert run(once) is once


def _traced(seed: int, dtype: str) -> tuple[Graph, list[Any]]:
    """A random program's outputs and gradients, as a graph; and its inputs, in float64."""
    program = random_program(seed)
    leaves, structure = flatten((([gc.tensor(a.astype(dtype)) for a in program.inputs],), {}))
    traced = trace(program.derived(dtype), leaves, structure)
    return traced.graph, [s.array if hasattr(s, "array") else leaves[s.position].numpy() for s in traced.sources]  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(60))
def test_every_stage_of_random_programs(seed: int) -> None:
    """After differentiation each stage computes what the one before did, but for rounding."""
    graph, numbers = _traced(seed, "float64")
    steps = pipeline.run(graph)
    names = [s.name for s in steps]
    wanted = None
    for step in steps[names.index("differentiate") :]:
        verify(step.graph)
        found = evaluate(step.graph, numbers)
        for got, want in zip(found, wanted or found, strict=True):
            scale = max(1.0, float(np.abs(want).max(initial=0)))
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10 * scale, err_msg=f"{step.name}, seed {seed}")
        wanted = found


@pytest.mark.parametrize("seed", range(40))
def test_rewrites_err_no_more_than_the_formula_as_written(seed: int) -> None:
    """In float32, against the same program in float64."""
    exact_graph, numbers = _traced(seed + 500, "float64")
    graph, narrow = _traced(seed + 500, "float32")
    plain = [s for s in pipeline.OPTIMISE if s.name == "differentiate"]
    before = evaluate(pipeline.run(graph, tuple(plain))[-1].graph, narrow)
    after = evaluate(pipeline.run(graph, pipeline.OPTIMISE)[-1].graph, narrow)
    narrowed = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in narrow]
    assert len(narrowed) == len(numbers)
    exact = evaluate(pipeline.run(exact_graph, tuple(plain))[-1].graph, narrowed)
    for a, b, want in zip(before, after, exact, strict=True):
        scale = max(1.0, float(np.abs(want).max(initial=0)))
        error = float(np.abs(a - want).max(initial=0))
        assert float(np.abs(b - want).max(initial=0)) <= 4 * error + 32 * 2.0**-24 * scale, f"seed {seed}"


@given(graphs(most=10))
@settings(max_examples=60, deadline=None, suppress_health_check=patient)
def test_fusion_changes_no_bit(graph: Graph) -> None:
    numbers = arguments(graph, 5)
    assert_same_bits(evaluate(verify(fuse(graph)), numbers), evaluate(graph, numbers))


def test_names_of_rules_are_unique() -> None:
    names = [r.name for r in (*simplify.RULES, simplify.UNMARK, *stabilise.RULES, *contract.RULES)]
    assert len(set(names)) == len(names)
    assert all(r.reason for r in (*simplify.RULES, *stabilise.RULES, *contract.RULES))
