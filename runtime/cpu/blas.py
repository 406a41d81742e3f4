"""Matrix products of the platform's BLAS, called from machine code with no Python between.

What generated code sees (GEMM_DECLARATIONS, one for each dtype, suffix f32 or f64):

    declare void @graphc_gemm_f32(i64 %transpose_a, i64 %transpose_b, i64 %m, i64 %n, i64 %k,
                                  ptr %a, i64 %lda, ptr %b, i64 %ldb, float %beta, ptr %c, i64 %ldc,
                                  i64 %batch, i64 %batch_a, i64 %batch_b, i64 %batch_c)

computes C = A @ B + beta * C for `batch` row-major matrices, matrix i of A starting batch_a * i elements after
%a, and so on: a MatmulCall, field by field. transpose_*: 0 or 1; lda, ldb, ldc: row strides in elements as stored
(lda >= k, or >= m if transpose_a). With beta 0, C is not read. k = 0 gives beta * C. C overlaps neither A nor B.
The call spreads over the pool by itself: call it from outside of any task.
The result doesn't depend on the number of threads.

Which BLAS. NumPy's own, found by asking the dynamic linker for the C interface among the libraries that NumPy's
core module was linked with (its wheels bundle OpenBLAS with 64-bit integers; distributions link another);
then the wheel scipy-openblas32; then gemm.py's generated product, which needs no library.

Threads. A product is cut into tiles that our pool runs, each by single-threaded BLAS: on a machine with other work
OpenBLAS's own threads were seen 10 to 100 times slower. Tiles are cut by shape alone: their sizes change the order in
which BLAS sums, so cutting by the number of threads would make the result depend on it. While a product
runs, the library's own number of threads is 1 for the whole process; then it is what it was.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import cache
from pathlib import Path

from graphc.frozen import dataclass

GEMM_DECLARATIONS = {
    "float32": "declare void @graphc_gemm_f32(i64, i64, i64, i64, i64, ptr, i64, ptr, i64, float, ptr, i64, "
    "i64, i64, i64, i64)",
    "float64": "declare void @graphc_gemm_f64(i64, i64, i64, i64, i64, ptr, i64, ptr, i64, double, ptr, i64, "
    "i64, i64, i64, i64)",
}

# (prefix, suffix, bits of an integer): how builds of BLAS rename their C interface. 64-bit integers first: a library
# may offer both.
_SPELLINGS = (("scipy_", "64_", 64), ("", "64_", 64), ("", "_64", 64), ("scipy_", "", 32), ("", "", 32))


@dataclass(frozen=True, slots=True)
class Blas:
    """A BLAS library. name: what it calls itself. source: where it was found. integer_bits: of its sizes.
    symbols: graphc_blas_sgemm and _dgemm, and _get_threads, _set_threads where the library has them."""

    name: str
    source: str
    integer_bits: int
    symbols: Mapping[str, int] = field(repr=False)

    @property
    def controllable(self) -> bool:
        return "graphc_blas_set_threads" in self.symbols

    @property
    def kind(self) -> str:
        """What machine code for it depends on."""
        return f"blas{self.integer_bits}{'' if self.controllable else ' without thread control'}"


def _address(library: ctypes.CDLL, name: str) -> int | None:
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(library, name))
    except ValueError:
        return None


def inspect_library(library: ctypes.CDLL, source: str) -> Blas | None:
    """The BLAS behind a library's handle (or behind one that it was linked with), or None."""
    for prefix, suffix, bits in _SPELLINGS:
        found = {
            f"graphc_blas_{name}": _address(library, f"{prefix}{symbol}{suffix}")
            for name, symbol in (
                ("sgemm", "cblas_sgemm"),
                ("dgemm", "cblas_dgemm"),
                ("get_threads", "openblas_get_num_threads"),
                ("set_threads", "openblas_set_num_threads"),
            )
        }
        if found["graphc_blas_sgemm"] is None or found["graphc_blas_dgemm"] is None:
            continue
        name = "a BLAS that doesn't say its name"
        config = _address(library, f"{prefix}openblas_get_config{suffix}")
        if config is not None:
            name = (ctypes.CFUNCTYPE(ctypes.c_char_p)(config)() or b"OpenBLAS").decode(errors="replace").strip()
        return Blas(name, source, bits, {symbol: at for symbol, at in found.items() if at is not None})
    return None


def _candidates() -> Iterator[tuple[str, str]]:
    """(path, what it is) of libraries that may hold or be linked with a BLAS, the preferred first."""
    for module in ("numpy._core._multiarray_umath", "numpy.linalg._umath_linalg"):
        path = getattr(sys.modules.get(module), "__file__", None)
        if path:
            yield path, "NumPy's"
    spec = importlib.util.find_spec("scipy_openblas32")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for library in sorted(Path(folder, "lib").glob("libscipy_openblas*")):
            yield str(library), "scipy-openblas32"


@cache
def find_blas() -> Blas | None:
    """The BLAS that products use; None where there is none, and the generated product is used."""
    for path, source in _candidates():
        try:
            found = inspect_library(ctypes.CDLL(path), source)
        except OSError:
            continue
        if found is not None:
            return found
    return None


# One tile by BLAS. Row-major (101), 111 as stored, 112 transposed.
_BLAS_TILE = r"""
define internal void @graphc_tile_@SUFFIX@(i64 %transpose_a, i64 %transpose_b, i64 %m, i64 %n, i64 %k,
    ptr %a, i64 %lda, ptr %b, i64 %ldb, @T@ %beta, ptr %c, i64 %ldc) nounwind {
  %flag_a = trunc i64 %transpose_a to i32
  %flag_b = trunc i64 %transpose_b to i32
  %order_a = add i32 %flag_a, 111
  %order_b = add i32 %flag_b, 111
@NARROW@
  call void @graphc_blas_@LETTER@gemm(i32 101, i32 %order_a, i32 %order_b, @INT@ %m_int, @INT@ %n_int, @INT@ %k_int,
    @T@ 1.0, ptr %a, @INT@ %lda_int, ptr %b, @INT@ %ldb_int, @T@ %beta, ptr %c, @INT@ %ldc_int)
  ret void
}
declare void @graphc_blas_@LETTER@gemm(i32, i32, i32, @INT@, @INT@, @INT@, @T@, ptr, @INT@, ptr, @INT@, @T@, ptr, @INT@)
"""

# The first product in flight sets the library to one thread, the last one sets it back, unless somebody else
# changed it between. A fork may find products in flight that the child will never end; but it waits for whoever is
# just changing the number, who holds a lock of the library that the child couldn't open.
_CONTROL = r"""
@graphc_blas_lock = internal global i32 0, align 64
@graphc_blas_users = internal global i32 0
@graphc_blas_saved = internal global i32 0
declare i32 @graphc_blas_get_threads()
declare void @graphc_blas_set_threads(i32)

define internal void @graphc_blas_locked() nounwind {
entry:
  br label %try
try:
  %pair = cmpxchg ptr @graphc_blas_lock, i32 0, i32 1 acquire monotonic
  %got = extractvalue { i32, i1 } %pair, 1
  br i1 %got, label %out, label %try
out:
  ret void
}

define internal void @graphc_blas_enter() nounwind {
entry:
  call void @graphc_blas_locked()
  %users = load i32, ptr @graphc_blas_users
  %more = add i32 %users, 1
  store i32 %more, ptr @graphc_blas_users
  %first = icmp eq i32 %users, 0
  br i1 %first, label %look, label %out
look:
  %threads = call i32 @graphc_blas_get_threads()
  store i32 %threads, ptr @graphc_blas_saved
  %several = icmp ne i32 %threads, 1
  br i1 %several, label %set, label %out
set:
  call void @graphc_blas_set_threads(i32 1)
  br label %out
out:
  store atomic i32 0, ptr @graphc_blas_lock release, align 4
  ret void
}

define internal void @graphc_blas_restore() nounwind {
entry:
  %saved = load i32, ptr @graphc_blas_saved
  %several = icmp ne i32 %saved, 1
  br i1 %several, label %look, label %out
look:
  %threads = call i32 @graphc_blas_get_threads()
  %ours = icmp eq i32 %threads, 1
  br i1 %ours, label %set, label %out
set:
  call void @graphc_blas_set_threads(i32 %saved)
  br label %out
out:
  ret void
}

define internal void @graphc_blas_leave() nounwind {
entry:
  call void @graphc_blas_locked()
  %users = load i32, ptr @graphc_blas_users
  %less = sub i32 %users, 1
  %last = icmp eq i32 %less, 0
  br i1 %last, label %restore, label %out
restore:                                          ; a child forked before this is done must know that it is due
  call void @graphc_blas_restore()
  br label %out
out:
  store atomic i32 %less, ptr @graphc_blas_users release, align 4
  store atomic i32 0, ptr @graphc_blas_lock release, align 4
  ret void
}

define void @graphc_hold_blas() nounwind {
  call void @graphc_blas_locked()
  ret void
}

define void @graphc_free_blas() nounwind {
  store atomic i32 0, ptr @graphc_blas_lock release, align 4
  ret void
}

define void @graphc_reset_blas() nounwind {
entry:
  %users = load i32, ptr @graphc_blas_users
  %some = icmp ne i32 %users, 0
  br i1 %some, label %restore, label %out
restore:
  call void @graphc_blas_restore()
  br label %out
out:
  store i32 0, ptr @graphc_blas_users
  store i32 0, ptr @graphc_blas_lock
  ret void
}
"""

_NO_CONTROL = r"""
define internal void @graphc_blas_enter() nounwind {
  ret void
}
define internal void @graphc_blas_leave() nounwind {
  ret void
}
define void @graphc_hold_blas() nounwind {
  ret void
}
define void @graphc_free_blas() nounwind {
  ret void
}
define void @graphc_reset_blas() nounwind {
  ret void
}
"""


def tile_text(suffix: str, integer_bits: int) -> str:
    """LLVM IR of @graphc_tile_<suffix>, one tile by BLAS. A library with 32-bit integers takes sizes below 2^31."""
    sizes = ("m", "n", "k", "lda", "ldb", "ldc")
    narrow = [f"  %{size}_int = trunc i64 %{size} to i32" for size in sizes]
    if integer_bits == 64:
        narrow = [f"  %{size}_int = add i64 %{size}, 0" for size in sizes]
    return (
        _BLAS_TILE.replace("@NARROW@", "\n".join(narrow))
        .replace("@SUFFIX@", suffix)
        .replace("@T@", "float" if suffix == "f32" else "double")
        .replace("@LETTER@", "s" if suffix == "f32" else "d")
        .replace("@INT@", f"i{integer_bits}")
    )


def control_text(blas: Blas | None) -> str:
    """LLVM IR of @graphc_blas_enter and _leave, around a product; of @graphc_hold_blas, before a fork, and after it
    @graphc_free_blas in the parent and @graphc_reset_blas in the child."""
    return _CONTROL if blas is not None and blas.controllable else _NO_CONTROL
