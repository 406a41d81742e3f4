"""Everything that a compiled function captures may change between calls: the result is always eager's."""

from __future__ import annotations

import array
import collections
import dataclasses
import functools
import sys
import types
from typing import Any

import numpy as np

import graphc as gc
from graphc import nn


def T(a: Any, requires_grad: bool = False) -> gc.Tensor:
    return gc.tensor(np.array(a, dtype=np.float64), requires_grad=requires_grad)


def forms(compiled: Any) -> int:
    return len(compiled.specialisations)


G = 2.0
GL = [1.0, 2.0]
GD = {"a": 1.0}
GT = T([1.0, 2.0])
GA = np.array([1.0, 2.0])
MOD = types.ModuleType("usermod")
MOD.k = 2.0
sys.modules["usermod"] = MOD


def helper(x):
    return x * 3


class Cfg:
    pass


CFG = Cfg()
CFG.k = 2.0
CFG.sub = Cfg()
CFG.sub.v = 1.0
CFG.l = [1.0]


def chk(f, change):
    """f compiled gives what f gives, before and after each change."""
    c = gc.compile(f)
    x = T([1.0, 2.0])
    for ch in [lambda: None, *(change if isinstance(change, list) else [change])]:
        ch()
        for _ in range(2):
            np.testing.assert_array_equal(c(x).detach().numpy(), f(x).detach().numpy())
    return c


def setg(**k):
    return lambda: globals().update(k)


def test_global() -> None:
    chk(lambda x: x * G, [setg(G=3.0), setg(G=4)])


def test_list() -> None:
    chk(lambda x: x * GL[0] + sum(GL), [lambda: GL.__setitem__(0, 5.0), lambda: GL.append(2.0), setg(GL=[9.0])])


def test_dict() -> None:
    chk(lambda x: x * GD["a"], [lambda: GD.__setitem__("a", 5.0), setg(GD={"a": 7.0})])
    chk(lambda x: x * sum(GD.values()), [lambda: GD.__setitem__("b", 5.0)])
    chk(lambda x: x * GD.get("zz", 1.0), [lambda: GD.__setitem__("zz", 5.0)])


def test_tensor() -> None:
    chk(
        lambda x: x * GT,
        [
            lambda: GT.fill_(4.0),
            setg(GT=T([5.0, 6.0])),
            setg(GT=T([[5.0], [6.0]])),
            setg(GT=gc.tensor([5, 6])),
            setg(GT=gc.tensor(3.0)),
        ],
    )


def test_array() -> None:
    chk(
        lambda x: x * GA,
        [
            lambda: GA.fill(4.0),
            setg(GA=np.array([5.0, 6.0])),
            setg(GA=np.array([[5.0], [6.0]])),
            setg(GA=np.array(3.0)),
            lambda: GA.__setitem__((), 8.0),
        ],
    )


def test_array2() -> None:
    global GA
    GA = np.array([1.0, 2.0])
    chk(lambda x: x * float(GA[0]), [lambda: GA.fill(4.0)])


def test_array3() -> None:
    global GA
    GA = np.array([1.0, 2.0])
    chk(lambda x: x * GA[0], [lambda: GA.fill(4.0)])


def test_array4() -> None:
    global GA
    GA = np.array([1.0, 2.0])
    chk(lambda x: x * (GA * 2 + 1), [lambda: GA.fill(4.0)])


def test_array5() -> None:
    global GA
    GA = np.array([1.0, 2.0])
    chk(lambda x: x * np.sum(GA), [lambda: GA.fill(4.0)])


def test_array6() -> None:
    global GA
    GA = np.array([1.0, 2.0])
    chk(lambda x: x * GA[::-1], [lambda: GA.fill(4.0), lambda: GA.__setitem__(0, 9.0)])


def test_array7() -> None:
    global GA
    GA = np.array([1.0, 2.0])
    chk(lambda x: x if GA.max() < 3 else -x, [lambda: GA.fill(4.0)])


def test_array8() -> None:
    global GA
    GA = np.array([1.0, 2.0])
    b = [np.array(3.0)]
    chk(lambda x: gc.asarray(GA) * x * b[0], [lambda: GA.fill(4.0), lambda: b[0].fill(5.0)])
    chk(lambda x: gc.tensor(GA) * x, [lambda: GA.fill(4.0)])


def test_func() -> None:
    old = helper
    try:
        chk(lambda x: helper(x), [setg(helper=lambda x: x * 7)])
    finally:
        globals()["helper"] = old


def test_code() -> None:
    def h(x):
        return x * 2

    def r(x):
        return x * 5

    chk(lambda x: h(x), [lambda: setattr(h, "__code__", r.__code__)])


def test_defaults() -> None:
    def h(x, k=2.0, *, m=3.0):
        return x * k * m

    chk(lambda x: h(x), [lambda: setattr(h, "__defaults__", (5.0,)), lambda: h.__kwdefaults__.__setitem__("m", 4.0)])

    def h2(x, k=[2.0]):  # noqa: B006 (that it is mutable is the point)
        return x * k[0]

    chk(h2, [lambda: h2.__defaults__[0].__setitem__(0, 5.0)])
    chk(lambda x: h2(x), [lambda: h2.__defaults__[0].__setitem__(0, 7.0)])

    def h3(x, *, k=2.0):
        return x * k

    chk(h3, [lambda: h3.__kwdefaults__.__setitem__("k", 5.0)])

    def h4(x, k=2.0):
        return x * k

    chk(h4, [lambda: setattr(h4, "__defaults__", (5.0,))])


def test_nonlocal() -> None:
    k = 2.0
    held = [1.0]

    def f(x):
        return x * k + held[0]

    def ch():
        nonlocal k
        k = 5.0

    chk(f, [ch, lambda: held.__setitem__(0, 4.0)])


def test_nested_closure() -> None:
    def mk(a):
        def inner(x):
            return x * a

        def set(v):
            nonlocal a
            a = v

        return inner, set

    i, s = mk(2.0)
    chk(lambda x: i(x), [lambda: s(3.0)])


def test_obj() -> None:
    chk(
        lambda x: x * CFG.k + CFG.sub.v * CFG.l[0],
        [
            lambda: setattr(CFG, "k", 5.0),
            lambda: setattr(CFG.sub, "v", 5.0),
            lambda: CFG.l.__setitem__(0, 3.0),
            lambda: setattr(CFG, "sub", type("Q", (), {"v": 9.0})()),
        ],
    )


def test_slots() -> None:
    class S:
        __slots__ = ("k", "m")

    s = S()
    s.k = 2.0
    chk(lambda x: x * s.k, [lambda: setattr(s, "k", 5.0)])


def test_getattr() -> None:
    CFG.k = 2.0
    name = "k"
    chk(lambda x: x * getattr(CFG, name), [lambda: setattr(CFG, "k", 6.0)])
    chk(lambda x: x * vars(CFG)["k"], [lambda: setattr(CFG, "k", 7.0)])
    chk(lambda x: x * CFG.__dict__["k"], [lambda: setattr(CFG, "k", 8.0)])


def test_prop() -> None:
    class S:
        def __init__(self):
            self._k = 2.0

        @property
        def k(self):
            return self._k

        def mul(self, x):
            return x * self.k

        def __call__(self, x):
            return x * self._k

    s = S()
    chk(lambda x: x * s.k, [lambda: setattr(s, "_k", 5.0)])
    chk(s.mul, [lambda: setattr(s, "_k", 6.0)])
    chk(s, [lambda: setattr(s, "_k", 7.0)])
    chk(lambda x: s(x), [lambda: setattr(s, "_k", 8.0)])


def test_module() -> None:
    import usermod

    chk(lambda x: x * usermod.k, [lambda: setattr(usermod, "k", 5.0)])
    chk(lambda x: x * MOD.k, [lambda: setattr(usermod, "k", 6.0)])
    usermod.f = lambda x: x * 2
    chk(lambda x: usermod.f(x), [lambda: setattr(usermod, "f", lambda x: x * 9)])


def test_import_inside() -> None:
    def f(x):
        import usermod

        return x * usermod.k

    chk(f, [lambda: setattr(MOD, "k", 15.0)])


def test_partial() -> None:
    d = [2.0]

    def f(a, x, k):
        return x * k * a[0]

    p = functools.partial(f, d, k=3.0)
    chk(p, [lambda: d.__setitem__(0, 5.0)])
    chk(lambda x: p(x), [lambda: d.__setitem__(0, 6.0), lambda: p.keywords.__setitem__("k", 4.0)])


def test_method_replaced() -> None:
    class S:
        def go(self, x):
            return x * 2

    s = S()
    chk(lambda x: s.go(x), [lambda: setattr(S, "go", lambda s, x: x * 4), lambda: setattr(s, "go", lambda x: x * 5)])

    class M(nn.Module):
        def forward(self, x):
            return x * 2

    m = M()
    chk(lambda x: m(x), [lambda: setattr(M, "forward", lambda s, x: x * 4)])
    chk(m, [lambda: setattr(M, "forward", lambda s, x: x * 5)])


def test_container_objects() -> None:

    @dataclasses.dataclass
    class D:
        k: float = 2.0
        items: list = dataclasses.field(default_factory=lambda: [1.0])

    d = D()
    chk(lambda x: x * d.k * d.items[0], [lambda: setattr(d, "k", 5.0), lambda: d.items.__setitem__(0, 7.0)])
    dq = collections.deque([1.0, 2.0])
    chk(lambda x: x * dq[0], [lambda: dq.__setitem__(0, 5.0)])
    od = collections.OrderedDict(a=1.0)
    chk(lambda x: x * od["a"], [lambda: od.__setitem__("a", 5.0)])
    dd = collections.defaultdict(lambda: 2.0)
    chk(lambda x: x * dd["q"], [lambda: dd.__setitem__("q", 5.0)])
    ns = types.SimpleNamespace(a=1.0)
    chk(lambda x: x * ns.a, [lambda: setattr(ns, "a", 5.0)])
    s = {1.0, 2.0}
    chk(lambda x: x * sum(s), [lambda: s.add(5.0)])
    nt = collections.namedtuple("N", "a")([1.0])
    chk(lambda x: x * nt.a[0], [lambda: nt.a.__setitem__(0, 5.0)])
    t = ([1.0],)
    chk(lambda x: x * t[0][0], [lambda: t[0].__setitem__(0, 5.0)])

    class L(list):
        pass

    ll = L([1.0])
    chk(lambda x: x * ll[0], [lambda: ll.__setitem__(0, 5.0)])
    c = collections.Counter(a=2)
    chk(lambda x: x * c["a"], [lambda: c.update(a=5)])
    ba = bytearray(b"a")
    chk(lambda x: x * ba[0], [lambda: ba.__setitem__(0, 5)])
    ar = array.array("d", [1.0])
    chk(lambda x: x * ar[0], [lambda: ar.__setitem__(0, 5)])


def test_requires_grad_changes() -> None:
    w = T([2.0])

    def f(x):
        y = (x * w).sum()
        if w.requires_grad:
            y.backward()
            return y * 1
        return y * 5

    c = gc.compile(f)
    assert c(T([3.0])).item() == 30
    w.requires_grad_()
    assert c(T([3.0])).item() == 6 and w.grad.item() == 3


def test_arrays_and_signs_of_zero() -> None:
    nan, zero = [float("nan")], [0.0]
    c = chk(lambda x: x / zero[0] + 0 * len(nan), [lambda: zero.__setitem__(0, -0.0)])
    assert forms(c) == 2
    c = chk(lambda x: x * nan[0], [lambda: nan.__setitem__(0, float("nan"))])
    assert forms(c) == 1
    t = [(2,)]
    c = chk(lambda x: x.astype("int64") * t[0][0], [lambda: t.__setitem__(0, (2.0,))])
    assert forms(c) == 2
    state = [0]

    def counts(x):
        state[0] += 1
        return x * state[0]

    c = gc.compile(counts)
    assert [c(T(1.0)).item() for _ in range(3)] == [1, 2, 3]
    assert forms(c) == 0
    assert "state[0] is changed by the function itself" in c.history[1]
    cache: dict = {}

    def caches(x):
        if "k" not in cache:
            cache["k"] = 3.0
        return x * cache["k"]

    c = gc.compile(caches)
    assert [c(T(1.0)).item() for _ in range(4)] == [3, 3, 3, 3]
    assert forms(c) == 1
