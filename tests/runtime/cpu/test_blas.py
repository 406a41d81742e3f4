"""Products: every flavour against float64, bits that don't depend on threads, and NumPy's own threads left alone."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.runtime.cpu import blas, gemm, jit, threads
from graphc.runtime.cpu.library import library, load
from graphc.runtime.cpu.target import TARGETS, by_name

Array = npt.NDArray[Any]
P, L = ctypes.c_void_p, ctypes.c_int64
ELEMENTS: dict[np.dtype[Any], tuple[Any, str]] = {
    np.dtype(np.float32): (ctypes.c_float, "f32"),
    np.dtype(np.float64): (ctypes.c_double, "f64"),
}

FLAVOURS = ["BLAS", *(name for name in ("host", "x86-64-v3", "x86-64") if by_name(name).runs_here())]


@dataclass(frozen=True)
class Products:
    """The functions graphc_gemm_f32 and _f64 of one flavour. code: keeps them in memory."""

    functions: dict[np.dtype[Any], Callable[..., None]]
    code: object

    def __call__(
        self, a: Array, b: Array, c: Array, turned: tuple[bool, bool] = (False, False), beta: float = 0.0
    ) -> None:
        """c = a @ b + beta * c in place, for stacks (batch, rows, columns) as stored."""
        batch, m, n = c.shape
        k = a.shape[1] if turned[0] else a.shape[2]
        self.functions[c.dtype](
            *(turned[0], turned[1], m, n, k, a.ctypes.data, a.shape[2], b.ctypes.data, b.shape[2], beta),
            *(c.ctypes.data, n, batch, a.shape[1] * a.shape[2], b.shape[1] * b.shape[2], m * n),
        )


def products(addresses: Callable[[str], int], code: object) -> Products:
    functions: dict[np.dtype[Any], Callable[..., None]] = {}
    for dtype, (element, suffix) in ELEMENTS.items():
        kinds = (L, L, L, L, L, P, L, P, L, element, P, L, L, L, L, L)
        functions[dtype] = ctypes.CFUNCTYPE(None, *kinds)(addresses(f"graphc_gemm_{suffix}"))
    return Products(functions, code)


PARALLEL = "declare void @graphc_parallel(ptr, ptr, i64, i64)\n"


@pytest.fixture(scope="module", params=FLAVOURS)
def product(request: pytest.FixtureRequest) -> Products:
    if request.param == "BLAS":
        assert blas.find_blas() is not None
        return products(library().symbols.__getitem__, library().code)
    target = by_name(request.param)
    code = load(jit.compile_text(PARALLEL + gemm.gemm_text(None, target), target), library().symbols)
    return products(code.address, code)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def check(
    product: Products, shape: tuple[int, int, int, int], dtype: type, turned: tuple[bool, bool], beta: float
) -> None:
    batch, m, n, k = shape
    rng = np.random.default_rng([*shape, *turned])
    a: Array = rng.standard_normal((batch, k, m) if turned[0] else (batch, m, k)).astype(dtype)
    b: Array = rng.standard_normal((batch, n, k) if turned[1] else (batch, k, n)).astype(dtype)
    c: Array = rng.standard_normal((batch, m, n)).astype(dtype)
    if beta == 0:
        c[...] = np.nan  # must not be read
    left, right = (np.swapaxes(x, 1, 2) if turn else x for x, turn in zip((a, b), turned, strict=True))
    wanted = left.astype(np.float64) @ right.astype(np.float64)
    bound = np.abs(left).astype(np.float64) @ np.abs(right).astype(np.float64)
    if beta:
        wanted = wanted + beta * c
        bound = bound + abs(beta) * np.abs(c)
    around: Array = np.full((batch + 2, m, n), 77, dtype)
    inside = around[1:-1]
    inside[...] = c
    product(a, b, inside, turned, beta)
    # Higham, Accuracy and Stability of Numerical Algorithms, (3.5), with some units for the reference itself
    error = np.abs(inside.astype(np.float64) - wanted)
    assert (error <= (k + 4) * np.finfo(dtype).eps * bound).all()
    assert (around[0] == 77).all()
    assert (around[-1] == 77).all()


@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape",
    [
        *((1, 1, 1, 1), (1, 5, 7, 3), (3, 17, 33, 130), (1, 12, 32, 128), (1, 64, 10, 500), (40, 8, 8, 8)),
        *((1, 0, 3, 4), (1, 3, 0, 4), (1, 3, 5, 0), (0, 2, 2, 2), (2, 300, 200, 257), (1, 513, 700, 129)),
    ],
)
def test_products(product: Products, shape: tuple[int, int, int, int], dtype: type, turned: tuple[bool, bool]) -> None:
    threads.set_num_threads(2)
    for beta in (0.0, 1.0, 0.5):
        check(product, shape, dtype, turned, beta)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), *[st.integers(0, 70)] * 3),
    dtype=st.sampled_from([np.float32, np.float64]),
    turned=st.tuples(st.booleans(), st.booleans()),
    beta=st.sampled_from([0.0, 1.0, -0.25]),
)
def test_products_of_any_shape(
    product: Products, shape: tuple[int, int, int, int], dtype: type, turned: tuple[bool, bool], beta: float
) -> None:
    check(product, shape, dtype, turned, beta)


def test_a_matrix_may_be_part_of_a_wider_one(product: Products) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((40, 90)), rng.standard_normal((50, 80))
    c = np.full((40, 100), 3.0)
    function = product.functions[np.dtype(np.float64)]
    function(0, 0, 40, 60, 50, a.ctypes.data + 80, 90, b.ctypes.data, 80, 0.0, c.ctypes.data + 160, 100, 1, 0, 0, 0)
    np.testing.assert_allclose(c[:, 20:80], a[:, 10:60] @ b[:, :60], rtol=1e-12, atol=1e-12)
    assert (c[:, :20] == 3).all()
    assert (c[:, 80:] == 3).all()


def test_nan_and_infinity_travel(product: Products) -> None:
    a, b = np.ones((1, 4, 4)), np.ones((1, 4, 4))
    a[0, 1, 2], b[0, 3, 3] = np.nan, np.inf
    c = np.zeros((1, 4, 4))
    product(a, b, c)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(c, a @ b)


@pytest.mark.parametrize("shape", [(1, 256, 256, 256), (1, 64, 800, 500), (1, 1000, 70, 300), (9, 130, 140, 150)])
def test_bits_don_t_depend_on_the_number_of_threads(product: Products, shape: tuple[int, int, int, int]) -> None:
    batch, m, n, k = shape
    rng = np.random.default_rng(1)
    a = rng.standard_normal((batch, m, k)).astype(np.float32)
    b = rng.standard_normal((batch, k, n)).astype(np.float32)
    found = []
    for number in (1, 2, 7):
        threads.set_num_threads(number)
        c = np.zeros((batch, m, n), np.float32)
        product(a, b, c)
        found.append(c)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def controls() -> tuple[Callable[[], int], Callable[[int], None]]:
    found = blas.find_blas()
    if found is None or not found.controllable:
        pytest.skip("NumPy's BLAS has no control of its threads")
    get = ctypes.CFUNCTYPE(ctypes.c_int)(found.symbols["graphc_blas_get_threads"])
    put = ctypes.CFUNCTYPE(None, ctypes.c_int)(found.symbols["graphc_blas_set_threads"])
    return get, put


@pytest.mark.parametrize("number", [1, 2, 3])
def test_numpy_s_threads_are_left_as_they_were(number: int) -> None:
    get, put = controls()
    before = get()
    own = products(library().symbols.__getitem__, library().code)
    try:
        put(number)
        a, c = np.ones((1, 300, 300)), np.zeros((1, 300, 300))
        own(a, a, c)
        assert get() == number

        def work() -> None:
            mine = np.zeros((1, 300, 300))
            for _ in range(10):
                own(a, a, mine)

        callers = [threading.Thread(target=work) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert get() == number
    finally:
        put(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_child_forked_in_the_middle_of_a_product_gets_its_threads_back() -> None:
    get, put = controls()
    before = get()
    own = products(library().symbols.__getitem__, library().code)
    stop = threading.Event()

    def busy() -> None:
        a, c = np.ones((1, 400, 400)), np.zeros((1, 400, 400))
        while not stop.is_set():
            own(a, a, c)

    other = threading.Thread(target=busy)
    try:
        put(2)
        other.start()
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                a, c = np.ones((1, 50, 50)), np.zeros((1, 50, 50))
                own(a, a, c)
                os._exit(0 if get() == 2 and (c == 50).all() else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        stop.set()
        other.join()
        put(before)


def test_a_library_with_32_bit_integers_and_no_control() -> None:
    """The order and width of BLAS's arguments, seen by a BLAS written in Python."""
    calls = []
    signature = (ctypes.c_int,) * 6 + (
        ctypes.c_double,
        P,
        ctypes.c_int,
        P,
        ctypes.c_int,
        ctypes.c_double,
        P,
        ctypes.c_int,
    )

    def dgemm(*told: Any) -> None:
        calls.append(told)

    fake = ctypes.CFUNCTYPE(None, *signature)(dgemm)
    address = ctypes.cast(fake, P).value
    assert address
    narrow = blas.Blas("fake", "test", 32, {"graphc_blas_sgemm": address, "graphc_blas_dgemm": address})
    assert not narrow.controllable
    assert narrow.kind == "blas32 without thread control"
    text = PARALLEL + gemm.gemm_text(narrow, by_name("host"))
    code = load(jit.compile_text(text), {**library().symbols, **narrow.symbols})
    product = products(code.address, code)
    a, b, c = np.ones((2, 5, 3)), np.ones((2, 5, 4)), np.ones((2, 3, 4))
    threads.set_num_threads(1)
    product(a, b, c, (True, False), 0.5)
    at = [(a.ctypes.data + 120 * i, b.ctypes.data + 160 * i, c.ctypes.data + 96 * i) for i in range(2)]
    assert calls == [(101, 112, 111, 3, 4, 5, 1.0, x, 3, y, 4, 0.5, z, 4) for x, y, z in at]


def test_which_blas_is_used() -> None:
    found = blas.find_blas()
    assert found is not None
    assert found.source in ("NumPy's", "scipy-openblas32")
    assert found.integer_bits in (32, 64)
    assert found.name in repr(found)
    assert library().blas is found


def test_a_library_without_products_is_no_blas() -> None:
    assert blas.inspect_library(ctypes.PyDLL(ctypes.util.find_library("m") or None), "libm") is None


@pytest.mark.parametrize("name", TARGETS)
def test_the_generated_product_compiles_for_every_target(name: str) -> None:
    target = by_name(name)
    listing = jit.assembly(PARALLEL + gemm.gemm_text(None, target), target)
    assert "graphc_gemm_f64:" in listing
    fused = {"aarch64": "fmla", "x86-64": "mulps"}.get(name, "vfmadd")
    assert fused in listing
    assert "callq\tfma" not in listing  # libm's, once for each element
