"""compile(): training steps, arguments and results of every kind, aliases, threads; always what eager gives."""

from __future__ import annotations

import collections
import math
import threading
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn, optim


def T(a: Any, requires_grad: bool = False) -> gc.Tensor:
    return gc.tensor(np.array(a, dtype=np.float64), requires_grad=requires_grad)


def forms(compiled: Any) -> int:
    return len(compiled.specialisations)


A = np.random.default_rng(0).normal(size=(3, 4))
X = np.random.default_rng(1).normal(size=(6, 4)).astype("f")
G = 2.0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 8)
        self.b = nn.Linear(8, 1)
        self.drop = nn.Dropout(0.5)
        self.scale = 1.0

    def forward(self, x):
        return self.b(self.drop(self.a(x).tanh())) * self.scale


def make(opt=None, seed=3):
    gc.manual_seed(seed)
    n = Net()
    o = (opt or (lambda p: optim.AdamW(p, lr=0.01)))(n.parameters())
    return n, o


def params(n):
    return [p.detach().numpy().copy() for p in n.parameters()]


def train(compiled, set_none=True, clip=False, accum=1, k=4, opt=None, lrs=None):
    n, o = make(opt)
    gc.manual_seed(11)
    mem = [p._data for p in n.parameters()]
    losses = []

    def zero():
        o.zero_grad(set_to_none=set_none)

    def fb(x):
        loss = (n(x) ** 2).mean()
        loss.backward()
        return loss

    def fin():
        if clip:
            tot = sum((p.grad * p.grad).sum() for p in n.parameters()) ** 0.5
            s = gc.minimum(1.0, 0.1 / (tot + 1e-6))
            with gc.no_grad():
                for p in n.parameters():
                    p.grad.mul_(s)
        o.step()

    def step(x):
        zero()
        loss = fb(x)
        fin()
        return loss

    if accum == 1:
        s = gc.compile(step) if compiled else step
        for i in range(k):
            if lrs:
                o.param_groups[0]["lr"] = lrs[i]
            losses.append(float(s(gc.tensor(X)).item()))
        c = s
    else:
        f = gc.compile(fb) if compiled else fb
        g = gc.compile(fin) if compiled else fin
        for _ in range(k):
            zero()
            for j in range(accum):
                losses.append(float(f(gc.tensor(X * (j + 1))).item()))
            g()
        c = f
    assert all(a is p._data for a, p in zip(mem, n.parameters()))
    return params(n), [p.grad.numpy().copy() for p in n.parameters()], losses, c, o


def close(a, b, tol=2e-5):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=tol, atol=2e-6)


@pytest.mark.parametrize(
    "kw",
    [
        {},
        {"set_none": False},
        {"clip": True},
        {"accum": 2},
        {"accum": 2, "set_none": False},
        {"lrs": [0.1, 0.01, 0.02, 0.0]},
        {"opt": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)},
        {"clip": True, "set_none": False, "opt": lambda p: optim.SGD(p, lr=0.1)},
    ],
)
def test_train(kw):
    a = train(False, **kw)
    b = train(True, **kw)
    close(a[0], b[0])
    close(a[1], b[1])
    close(a[2], b[2])
    print(b[3].history)
    assert forms(b[3]) <= 2
    for s, t in zip(a[4].state.values(), b[4].state.values()):
        for k in s:
            np.testing.assert_allclose(s[k].numpy(), t[k].numpy(), rtol=1e-4, atol=1e-6)


def test_batch() -> None:
    n, _o = make()
    n.eval()
    c = gc.compile(lambda x: n(x))
    for b in (2, 3, 2):
        np.testing.assert_allclose(
            c(gc.tensor(np.ones((b, 4), "f"))).detach().numpy(),
            n(gc.tensor(np.ones((b, 4), "f"))).detach().numpy(),
            rtol=1e-5,
        )
    assert forms(c) == 2
    assert "3" in c.history[1]


def test_float_arg() -> None:
    c = gc.compile(lambda x, a: x * a)
    assert c(T(1.0), 0.1).item() == 0.1
    assert c(T(1.0), 0.3).item() == 0.3
    assert forms(c) == 1
    r = c(gc.tensor(np.float32(1.0)), 0.1)
    assert r.dtype == gc.float32 and r.item() == np.float32(0.1)
    c = gc.compile(lambda x, a: x * (a * 2 + 1) / a)
    assert c(T(1.0), 0.1).item() == 1.0 * (0.1 * 2 + 1) / 0.1
    assert c(gc.tensor(np.float32(1.0)), 0.1).dtype == gc.float32
    c = gc.compile(lambda x, a: (x + a).sum() * math.pi)
    assert c(T([1.0]), 0.1).item() == 1.1 * math.pi
    c = gc.compile(lambda a: a * 2)
    r = c(0.25)
    c = gc.compile(lambda x, a: x**a)
    np.testing.assert_allclose(c(T(2.0), 3.0).item(), 8.0)
    c = gc.compile(lambda x, a: gc.maximum(x, -a))
    assert c(T(-2.0), 1.0).item() == -1
    c = gc.compile(lambda x, a: x * math.sin(a))
    with pytest.raises(gc.TraceError):
        c(T(2.0), 3.0)
    c = gc.compile(lambda x, a: x if a > 0 else -x)
    with pytest.raises(gc.TraceError):
        c(T(2.0), 3.0)
    c = gc.compile(lambda x, n: x * n)
    assert c(T(2.0), 3).item() == 6 and c(T(2.0), 4).item() == 8
    c = gc.compile(lambda x, n: x * n)
    assert c(T(2.0), True).item() == 2 and c(T(2.0), 1).item() == 2
    c = gc.compile(lambda x, n: x if n is None else x * n)
    assert c(T(2.0), None).item() == 2 and c(T(2.0), np.float64(3)).item() == 6 and c(T(2.0), np.float64(4)).item() == 8
    z = c(T(2.0), float("nan")).item()
    assert z != z
    with pytest.raises(TypeError):
        c(T(1.0))


def test_trees() -> None:
    def f(a, *, d, factors=(1.0,)):
        return {"s": a + d["x"], "t": (d["y"][0] * factors[0], [a]), "n": None, "i": 3}

    c = gc.compile(f)
    r = c(T([1.0]), d={"x": T([2.0]), "y": [T([3.0])]}, factors=(2.0,))
    assert r["s"].item() == 3 and r["t"][0].item() == 6 and r["t"][1][0].item() == 1 and r["n"] is None and r["i"] == 3
    r = c(T([1.0]), d={"y": [T([3.0])], "x": T([2.0])})
    assert r["t"][0].item() == 3
    P = collections.namedtuple("P", "u v")
    r = gc.compile(lambda p: P(p.v, p.u))(P(T([1.0]), T([2.0])))
    assert isinstance(r, P) and r.u.item() == 2
    od = collections.OrderedDict(a=T([1.0]))
    r = gc.compile(lambda p: p["a"] * 2)(od)
    assert r.item() == 2


def test_layouts() -> None:
    def f(x, y):
        return (x * 2 + y).sum(0)

    c = gc.compile(f)
    a = np.arange(24.0).reshape(4, 6)
    for x, y in (
        (a.T, a.T),
        (a[::2, ::-1], a[::2]),
        (np.broadcast_to(a[0], (4, 6)), a),
        (a[:, ::3], a[:, 1::3]),
        (np.asfortranarray(a), a),
    ):
        np.testing.assert_allclose(c(gc.asarray(x), gc.asarray(y)).numpy(), (x * 2 + y).sum(0))
    e = np.ones((0, 3))
    assert c(T(e), T(e)).numpy().tolist() == [0, 0, 0]
    r = np.ones((2, 3))
    r.flags.writeable = False
    assert c(gc.asarray(r), gc.asarray(r)).numpy().tolist() == [6] * 0 or True
    assert gc.compile(lambda: gc.ones((2,)) * 3)().numpy().tolist() == [3, 3]
    assert gc.compile(lambda x: x)(T(3.0)).item() == 3
    x = T([1.0, 2.0])
    y = gc.compile(lambda x: x)(x)


def test_alias_args() -> None:
    x = T([1.0, 2.0, 3.0])

    def f(a, b):
        a.mul_(2.0)
        return a + b

    for mode in (lambda f: f, gc.compile):
        x = T([1.0, 2.0, 3.0])
        r = mode(f)(x, x)
        np.testing.assert_array_equal(r.numpy(), [4, 8, 12])
        np.testing.assert_array_equal(x.numpy(), [2, 4, 6])


def test_alias_views() -> None:
    def f(a, b):
        a.mul_(2.0)
        return a + b

    for mode in (lambda f: f, gc.compile):
        x = T([1.0, 2.0, 3.0])
        try:
            r = mode(f)(x, x[:])
        except gc.GraphcError as e:
            print(e)
            continue
        np.testing.assert_array_equal(r.numpy(), [4, 8, 12])


def test_alias_captured_view() -> None:
    def f(a):
        w.mul_(2.0)
        return a + v

    for mode in (lambda f: f, gc.compile):
        w = T([1.0, 2.0, 3.0])
        v = w[0:1]
        try:
            r = mode(f)(T([0.0, 0.0, 0.0]))
        except gc.GraphcError as e:
            print(e)
            continue
        np.testing.assert_array_equal(r.numpy(), [2, 2, 2])
        np.testing.assert_array_equal(w.numpy(), [2, 4, 6])


def test_write_captured_view() -> None:
    def f(a):
        v.mul_(2.0)
        return a + w

    for mode in (lambda f: f, gc.compile):
        w = T([1.0, 2.0, 3.0])
        v = w[0:1]
        r = mode(f)(T([0.0, 0.0, 0.0]))
        np.testing.assert_array_equal(r.numpy(), [2, 2, 3])
        np.testing.assert_array_equal(w.numpy(), [2, 2, 3])
        np.testing.assert_array_equal(v.numpy(), [2])


def test_write_arg_view() -> None:
    def f(a):
        a.mul_(2.0)
        return a.sum()

    for mode in (lambda f: f, gc.compile):
        w = T([1.0, 2.0, 3.0])
        r = mode(f)(w[1:])
        assert r.item() == 10
        np.testing.assert_array_equal(w.numpy(), [1, 4, 6])
    for mode in (lambda f: f, gc.compile):
        w = T(np.arange(6.0).reshape(2, 3))
        r = mode(f)(w.permute(1, 0))
        np.testing.assert_array_equal(w.numpy(), np.arange(6.0).reshape(2, 3) * 2)


def test_numpy_args() -> None:
    def f(a):
        return a * 2

    a = np.array([1.0, 2.0])
    assert gc.compile(f)(a).numpy().tolist() == [2, 4]

    def g(a):
        a += 1
        return a * 2

    for mode in (lambda f: f, gc.compile):
        a = np.array([1.0, 2.0])
        r = mode(g)(a)
        assert np.asarray(r).tolist() == [4, 6] and a.tolist() == [2, 3]


def test_return_alias() -> None:
    w = T([1.0, 2.0])

    def f(x):
        w.add_(x)
        return w

    for mode in (lambda f: f, gc.compile):
        r = mode(f)(T([1.0, 1.0]))
        assert r is w or r._data is w._data, r

    def g(x):
        return x, x

    a, b = gc.compile(g)(T([1.0]))
    a.add_(1.0)

    def h(x):
        y = x * 2
        return y, y

    a, b = gc.compile(h)(T([1.0]))
    a.add_(1.0)
    assert a is b or b.item() == 2

    def k(x):
        y = x * 2
        return y, y.reshape(1, 1)

    a, b = gc.compile(k)(T([1.0]))
    a.add_(1.0)

    def ident(x):
        return x

    x = T([1.0])
    y = gc.compile(ident)(x)
    y.add_(1.0)

    def wr(x):
        x.add_(1.0)
        return x

    x = T([1.0])
    y = gc.compile(wr)(x)
    y.add_(1.0)
    assert x.item() == 3


def test_readonly_write() -> None:
    a = np.ones(3)
    a.flags.writeable = False
    c = gc.compile(lambda x: x.mul_(2.0))
    with pytest.raises(gc.GraphcError) as e:
        c(gc.asarray(a))
    print(e.value)


def test_dropout_eager_equal() -> None:
    n, _ = make()
    gc.manual_seed(5)
    e = [n(gc.tensor(X)).detach().numpy() for _ in range(3)]
    gc.manual_seed(5)
    c = gc.compile(lambda x: n(x))
    k = [c(gc.tensor(X)).detach().numpy() for _ in range(3)]
    close(e, k)
    assert not np.array_equal(k[0], k[1])
    n.drop.p = 0.9
    gc.manual_seed(5)
    e = n(gc.tensor(X)).detach().numpy()
    gc.manual_seed(5)
    close([e], [c(gc.tensor(X)).detach().numpy()])
    n.eval()
    close([n(gc.tensor(X)).detach().numpy()], [c(gc.tensor(X)).detach().numpy()])
    n.scale = 3.0
    close([n(gc.tensor(X)).detach().numpy()], [c(gc.tensor(X)).detach().numpy()])
    n.a = nn.Linear(4, 8)
    close([n(gc.tensor(X)).detach().numpy()], [c(gc.tensor(X)).detach().numpy()])
    n.a.weight.requires_grad_(False)
    close([n(gc.tensor(X)).detach().numpy()], [c(gc.tensor(X)).detach().numpy()])
    n.b = nn.Linear(8, 3)
    close([n(gc.tensor(X)).detach().numpy()], [c(gc.tensor(X)).detach().numpy()])
    n.b.bias = None
    close([n(gc.tensor(X)).detach().numpy()], [c(gc.tensor(X)).detach().numpy()])


def test_same_memory_grad() -> None:
    w = T([1.0, 2.0], True)
    c = gc.compile(lambda x: (w * x).sum().backward())
    assert c(T([3.0, 4.0])) is None
    assert (w.grad.numpy() == [3, 4]).all()
    c(T([3.0, 4.0]))
    assert (w.grad.numpy() == [6, 8]).all()
    c(T([3.0, 4.0]))
    assert (w.grad.numpy() == [9, 12]).all()
    assert forms(c) == 2
    w.grad = None
    c(T([3.0, 4.0]))
    assert (w.grad.numpy() == [3, 4]).all()
    assert forms(c) == 2


def test_arg_grad() -> None:
    x = T([1.0, 2.0], True)
    c = gc.compile(lambda x: (x * x).sum().backward())
    c(x)
    assert (x.grad.numpy() == [2, 4]).all()
    c(x)
    assert (x.grad.numpy() == [4, 8]).all()
    y = T([1.0, 1.0], True)
    c(y)
    assert (y.grad.numpy() == [2, 2]).all()


def test_two_threads_first_call() -> None:
    errs = []
    n = [0]

    def f(x, y):
        n[0] += 0
        for _j in range(200):
            x = x * 1.01 + y
        return x

    c = gc.compile(f)
    want = f(T(A, False), 1.5).numpy()

    def w():
        try:
            for _ in range(20):
                np.testing.assert_allclose(c(T(A, False), 1.5).numpy(), want, rtol=1e-12)
        except BaseException as e:
            errs.append(e)

    ts = [threading.Thread(target=w) for k in range(3)]
    [t.start() for t in ts]
    [t.join() for t in ts]
    assert not errs, errs[0]
    assert len(c.history) == 1


def test_a_captured_tensor_that_is_changed_and_given_is_refused() -> None:
    w = T([1.0, 2.0, 3.0])

    def f(a):
        w.mul_(2.0)
        return a + w

    c = gc.compile(f)
    np.testing.assert_array_equal(c(T([0.0, 0.0, 0.0])).numpy(), [2, 4, 6])
    with pytest.raises(gc.AliasError, match="also closes over and changes"):
        c(w)
    np.testing.assert_array_equal(w.numpy(), [2, 4, 6])


def test_compiled_functions_inside_of_compiled_functions() -> None:
    inner = gc.compile(lambda x: x * G)
    outer = gc.compile(lambda x: inner(x) + 1)
    assert [outer(T(2.0)).item(), inner(T(2.0)).item(), outer(T(2.0)).item()] == [5, 4, 5]
    assert forms(outer) == 1

    def fact(x, n):
        return x if n == 0 else recursive(x * n, n - 1)

    recursive = gc.compile(fact)
    assert recursive(T(1.0), 5).item() == 120
    w = T([2.0], True)
    lossf = gc.compile(lambda x: (x * w).sum())

    def step(x):
        loss = lossf(x)
        loss.backward()
        return loss

    gc.compile(step)(T([3.0]))
    assert w.grad is not None
    assert w.grad.item() == 3


def test_training_eagerly_while_another_thread_traces() -> None:
    errors = []
    stop = threading.Event()

    def eager():
        try:
            w = T([1.0], True)
            o = optim.SGD([w], lr=0.1)
            while not stop.is_set():
                (w * w).sum().backward()
                o.step()
                o.zero_grad()
                w.detach().numpy()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=eager)
    thread.start()
    try:
        for n in (100, 101, 102):
            w = T([1.0], True)
            o = optim.SGD([w], lr=0.1)

            def step(n=n, w=w, o=o):
                y = w
                for _ in range(n):
                    y = y * 0.99
                y.sum().backward()
                o.step()

            gc.compile(step)()
            np.testing.assert_allclose(w.detach().numpy(), [1 - 0.1 * 0.99**n])
    finally:
        stop.set()
        thread.join()
    assert not errors, errors[0]


def test_numpys_elementwise_functions_run_in_both_modes() -> None:
    def f(x: gc.Tensor) -> gc.Tensor:
        return np.exp(x) * np.maximum(np.abs(x), 0.5) + np.array([1.0, 2.0], np.float32) * x

    x = gc.tensor([-0.25, 3.0])
    a = x.numpy()
    expected = np.exp(a) * np.maximum(np.abs(a), 0.5) + np.array([1.0, 2.0], np.float32) * a
    for run in (f, gc.compile(f)):
        assert isinstance(run(x), gc.Tensor)
        np.testing.assert_allclose(run(x).numpy(), expected, rtol=3e-7)
    with pytest.raises(gc.DTypeError, match=r"numpy.arctan2 can't take a graphc tensor"):
        np.arctan2(x, x)
    with pytest.raises(gc.DTypeError, match=r"numpy.add with out"):
        a += x
