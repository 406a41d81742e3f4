"""Functional transforms in both modes: nested, masked, with pytrees; and gradcheck."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc

MODES = [pytest.param(lambda f: f, id="eager"), pytest.param(gc.compile, id="compiled")]


def T(a: Any) -> gc.Tensor:
    return gc.tensor(np.array(a, dtype=np.float64))


def masked(x: Any) -> Any:
    return gc.where(x > 0, x.log() / x, x * 2).sum()


@pytest.mark.parametrize("mode", MODES)
def test_the_branch_that_was_not_chosen_poisons_no_derivative(mode: Any) -> None:
    x, ones = T([0.0, 1.0, -1.0]), T([1.0, 1.0, 1.0])
    np.testing.assert_allclose(mode(gc.grad(masked))(x).numpy(), [2, 1, 2])
    twice = gc.grad(lambda x: gc.grad(masked)(x).sum())
    np.testing.assert_allclose(mode(twice)(x).numpy(), [0, -3, 0])
    np.testing.assert_allclose(mode(gc.hessian(masked))(x).numpy(), np.diag([0, -3.0, 0]))
    np.testing.assert_allclose(mode(lambda x, t: gc.jvp(masked, (x,), (t,)))(x, ones)[1].numpy(), 5)
    np.testing.assert_allclose(mode(lambda x, t: gc.hvp(masked, (x,), (t,)))(x, ones)[0].numpy(), [0, -3, 0])
    root = gc.grad(lambda x: gc.where(x > 0, x.sqrt(), x * 0.0).sum())
    np.testing.assert_allclose(mode(root)(x).numpy(), [0, 0.5, 0])


@pytest.mark.parametrize("mode", MODES)
def test_nan_of_the_chosen_branch_shows(mode: Any) -> None:
    g = mode(gc.grad(lambda x: gc.where(x > -5, x.sqrt(), x).sum()))(T([-1.0, 0.0])).numpy()
    assert np.isnan(g[0])
    assert np.isinf(g[1])
    zero = mode(gc.grad(lambda x: (x.sqrt() * 0).sum()))(T([0.0, 1.0])).numpy()
    np.testing.assert_array_equal(zero, [np.nan, 0])  # 0 * inf


@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives_where_the_cotangent_is_zero(mode: Any) -> None:
    def f(x: Any, s: Any) -> Any:
        return (gc.where(x > 0, x * x * x, x) * s).sum()

    mixed = mode(lambda x, s: gc.grad(lambda s: gc.grad(f)(x, s).sum())(s))
    result = mixed(T([2.0, -1.0]), T([0.0, 0.0]))
    assert not result.requires_grad
    np.testing.assert_allclose(result.numpy(), [12, 1])


def cube(x: Any) -> Any:
    return (x**4).sum()


@pytest.mark.parametrize("around", MODES)
@pytest.mark.parametrize("inside", MODES)
def test_three_derivatives_deep(around: Any, inside: Any) -> None:
    f, x, one = inside(cube), T([2.0]), T([1.0])
    third = gc.grad(lambda x: gc.grad(lambda x: gc.grad(f)(x).sum())(x).sum())
    np.testing.assert_allclose(around(third)(x).numpy(), [48])
    mixed = gc.grad(lambda x: gc.hvp(f, (x,), (one,))[0].sum())
    np.testing.assert_allclose(around(mixed)(x).numpy(), [48])
    forward = gc.jacobian(lambda x: gc.jvp(lambda x: gc.jvp(f, (x,), (one,))[1], (x,), (one,))[1])
    np.testing.assert_allclose(around(forward)(x).numpy(), [48])
    np.testing.assert_allclose(around(gc.jacobian(gc.hessian(f)))(x).numpy(), [[[48]]])


@pytest.mark.parametrize("mode", MODES)
def test_no_grad_around_a_transform_leaves_its_derivative_alone(mode: Any) -> None:
    def f(x: Any) -> Any:
        with gc.no_grad():
            g = gc.grad(cube)(x)
            _, t = gc.jvp(lambda x: x * x, (x,), (x,))
        return g, t, (g * x).sum()

    g, t, _ = mode(f)(T([2.0]))
    assert not g.requires_grad
    np.testing.assert_allclose(g.numpy(), [32])
    np.testing.assert_allclose(t.numpy(), [8])
    np.testing.assert_allclose(mode(gc.grad(lambda x: f(x)[2]))(T([2.0])).numpy(), [32])  # g is a constant to it


@pytest.mark.parametrize("mode", MODES)
def test_pytrees_argnums_and_aux(mode: Any) -> None:
    def loss(p: Any, x: Any) -> Any:
        y = x @ p["w"] + p["b"][0]
        return (y * y).sum(), {"y": y}

    p, x = {"w": T([[1.0], [2.0]]), "b": [T([0.5])]}, T([[3.0, 4.0]])
    (value, aux), grads = mode(gc.value_and_grad(loss, has_aux=True))(p, x)
    assert value.item() == 132.25
    assert aux["y"].item() == 11.5
    np.testing.assert_allclose(grads["w"].numpy(), [[69], [92]])
    np.testing.assert_allclose(grads["b"][0].numpy(), [23])
    gp, gx = mode(gc.grad(lambda p, x: loss(p, x)[0], argnums=(0, 1)))(p, x)
    np.testing.assert_allclose(gx.numpy(), [[23, 46]])
    np.testing.assert_allclose(gp["w"].numpy(), [[69], [92]])
    with pytest.raises(gc.AutodiffError, match="argnums=2"):
        gc.grad(loss, argnums=2)(p, x)
    with pytest.raises(gc.DTypeError, match="int64"):
        gc.grad(lambda x: x.sum())(gc.tensor([1, 2]))


def test_compiled_functions_have_both_derivatives() -> None:
    w = gc.tensor(np.array([2.0, 3.0]), requires_grad=True)
    c = gc.compile(lambda x: (w * x * x).sum())
    x = gc.tensor(np.array([1.0, 2.0]), requires_grad=True)
    c(x).backward()
    assert x.grad is not None
    assert w.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), [4, 12])
    np.testing.assert_allclose(w.grad.numpy(), [1, 4])
    (y, z), pull = gc.vjp(gc.compile(lambda x: (x * 2, x * x)), T([3.0]))
    assert (y.item(), z.item()) == (6, 9)
    np.testing.assert_allclose(pull((T([1.0]), T([1.0])))[0].numpy(), [8])
    np.testing.assert_allclose(gc.jvp(gc.compile(cube), (T([2.0]),), (T([1.0]),))[1].numpy(), 32)


def test_gradients_of_a_compiled_call_follow_what_was_written_since() -> None:
    x, seed = gc.tensor(np.array([1.0]), requires_grad=True), T(1.0)
    c = gc.compile(lambda x: (x * x).sum())
    for value in (1.0, 5.0):
        x.grad = None
        with gc.no_grad():
            x.fill_(value)
        c(x).backward(seed)
        assert x.grad is not None
        assert x.grad.item() == 2 * value


def test_gradcheck_and_gradgradcheck() -> None:
    x = gc.tensor(np.random.default_rng(0).normal(size=(2, 3)), requires_grad=True)
    y = gc.tensor(np.ones((2, 3)), requires_grad=True)
    assert gc.gradcheck(lambda x, y: (gc.where(x > 0, x * y.sin(), y.exp()), x.sum(0)), [x, y])
    assert gc.gradgradcheck(lambda x, y: gc.where(x > 0, x * y.sin(), y.exp()), [x, y])
    with pytest.raises(
        gc.AutodiffError, match=r"6 of 36 .* input 0 differ(.|\n)*\(0, 2\)(.|\n)*analytic 0.640(.|\n)*numeric  1.28"
    ):
        gc.gradcheck(lambda x: x * x.detach(), x)
    assert not gc.gradcheck(lambda x: x * x.detach(), x, raise_exception=False)
    with pytest.raises(gc.AutodiffError):
        gc.gradgradcheck(lambda x: (gc.stop_gradient(x * x) * x).sum(), x)
    with pytest.raises(gc.DTypeError, match="float32"):
        gc.gradcheck(gc.exp, gc.ones((2,)).requires_grad_())
    with pytest.raises(gc.AutodiffError, match="no input requires a gradient"):
        gc.gradcheck(gc.exp, T([1.0]))
