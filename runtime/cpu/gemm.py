"""LLVM IR of matrix products: cutting one into tiles for the pool, and a tile without any BLAS.

blas.py says what generated code sees. The cut depends on the shape alone, so that the result doesn't depend on
the number of threads: a product of less than 12 MFLOP is one tile; else the longer side is halved until tiles are
below that or there are 16, and on to 64 tiles while each is above 64 MFLOP. Measured with OpenBLAS on one thread:
tiles of 8 MFLOP and more lose at most a tenth to the whole product's speed.
"""

from __future__ import annotations

from graphc.frozen import dataclass
from graphc.runtime.cpu.blas import Blas, control_text, tile_text
from graphc.runtime.cpu.target import Target
from graphc.types import DType, float32, float64

# The job of one product, as 8-byte fields: the arguments of @graphc_gemm in their order, then the cut.
_FIELDS = (
    *("transpose_a", "transpose_b", "m", "n", "k", "a", "lda", "b", "ldb", "beta", "c", "ldc"),
    *("batch", "batch_a", "batch_b", "batch_c", "tile_m", "tile_n", "across", "tiles"),
)
_POINTERS = ("a", "b", "c")

_GEMM = r"""
define internal void @graphc_gemm_task_@S@(ptr %job, i64 %begin, i64 %end) nounwind {
entry:
@LOAD@
  br label %next
next:
  %number = phi i64 [ %begin, %entry ], [ %number_next, %next ]
  %matrix = sdiv i64 %number, %tiles
  %tile = srem i64 %number, %tiles
  %row = sdiv i64 %tile, %across
  %column = srem i64 %tile, %across
  %i = mul i64 %row, %tile_m
  %j = mul i64 %column, %tile_n
  %left_m = sub i64 %m, %i
  %left_n = sub i64 %n, %j
  %rows = call i64 @llvm.smin.i64(i64 %left_m, i64 %tile_m)
  %columns = call i64 @llvm.smin.i64(i64 %left_n, i64 %tile_n)
  %turned_a = icmp ne i64 %transpose_a, 0
  %turned_b = icmp ne i64 %transpose_b, 0
  %stride_a = select i1 %turned_a, i64 1, i64 %lda
  %stride_b = select i1 %turned_b, i64 %ldb, i64 1
  %a_matrix = mul i64 %matrix, %batch_a
  %b_matrix = mul i64 %matrix, %batch_b
  %c_matrix = mul i64 %matrix, %batch_c
  %a_row = mul i64 %i, %stride_a
  %b_column = mul i64 %j, %stride_b
  %c_row = mul i64 %i, %ldc
  %a_at = add i64 %a_matrix, %a_row
  %b_at = add i64 %b_matrix, %b_column
  %c_start = add i64 %c_matrix, %c_row
  %c_at = add i64 %c_start, %j
  %a_tile = getelementptr @T@, ptr %a, i64 %a_at
  %b_tile = getelementptr @T@, ptr %b, i64 %b_at
  %c_tile = getelementptr @T@, ptr %c, i64 %c_at
  call void @graphc_tile_@S@(i64 %transpose_a, i64 %transpose_b, i64 %rows, i64 %columns, i64 %k,
    ptr %a_tile, i64 %lda, ptr %b_tile, i64 %ldb, @T@ %beta, ptr %c_tile, i64 %ldc)
  %number_next = add i64 %number, 1
  %more = icmp slt i64 %number_next, %end
  br i1 %more, label %next, label %out
out:
  ret void
}

define void @graphc_gemm_@S@(i64 %transpose_a, i64 %transpose_b, i64 %m, i64 %n, i64 %k,
    ptr %a, i64 %lda_given, ptr %b, i64 %ldb_given, @T@ %beta, ptr %c, i64 %ldc_given,
    i64 %batch, i64 %batch_a, i64 %batch_b, i64 %batch_c) nounwind {
entry:
  %job = alloca [@COUNT@ x i64], align 16
  %lda = call i64 @llvm.smax.i64(i64 %lda_given, i64 1)  ; BLAS refuses a stride of 0 even where there is nothing
  %ldb = call i64 @llvm.smax.i64(i64 %ldb_given, i64 1)
  %ldc = call i64 @llvm.smax.i64(i64 %ldc_given, i64 1)
  %mn = mul i64 %m, %n
  %elements = mul i64 %mn, %batch
  %some = icmp sgt i64 %elements, 0
  br i1 %some, label %cut, label %out
cut:
  %depth = mul i64 %k, 2
  br label %again
again:
  %tile_m = phi i64 [ %m, %cut ], [ %next_m, %halve ]
  %tile_n = phi i64 [ %n, %cut ], [ %next_n, %halve ]
  %m_less = sub i64 %m, 1
  %n_less = sub i64 %n, 1
  %down_less = sdiv i64 %m_less, %tile_m
  %across_less = sdiv i64 %n_less, %tile_n
  %down = add i64 %down_less, 1
  %across = add i64 %across_less, 1
  %tiles = mul i64 %down, %across
  %area = mul i64 %tile_m, %tile_n
  %work = mul i64 %area, %depth
  %few = icmp slt i64 %tiles, 16
  %large = icmp sgt i64 %work, 12000000
  %not_many = icmp slt i64 %tiles, 64
  %huge = icmp sgt i64 %work, 64000000
  %cut_small = and i1 %few, %large
  %cut_huge = and i1 %not_many, %huge
  %wanted = or i1 %cut_small, %cut_huge
  %longer = call i64 @llvm.smax.i64(i64 %tile_m, i64 %tile_n)
  %divisible = icmp sgt i64 %longer, 16
  %go_on = and i1 %wanted, %divisible
  br i1 %go_on, label %halve, label %ready
halve:                                            ; a half, rounded up to whole vectors
  %rounded = add i64 %longer, 31
  %halved = sdiv i64 %rounded, 32
  %half = mul i64 %halved, 16
  %tall = icmp sge i64 %tile_m, %tile_n
  %next_m = select i1 %tall, i64 %half, i64 %tile_m
  %next_n = select i1 %tall, i64 %tile_n, i64 %half
  br label %again
ready:
  %count = mul i64 %tiles, %batch
  %at_least = call i64 @llvm.smax.i64(i64 %work, i64 1)
  %grain = sdiv i64 2000000, %at_least              ; small matrices of a batch go together
@STORE@
  call void @graphc_blas_enter()
  call void @graphc_parallel(ptr @graphc_gemm_task_@S@, ptr %job, i64 %count, i64 %grain)
  call void @graphc_blas_leave()
  br label %out
out:
  ret void
}
"""


def _gemm_text(dtype: DType) -> str:
    element = "float" if dtype is float32 else "double"
    kinds = {name: "ptr" if name in _POINTERS else element if name == "beta" else "i64" for name in _FIELDS}
    cells = [f"  %{name}_cell = getelementptr i64, ptr %job, i64 {i}" for i, name in enumerate(_FIELDS)]
    loads = [f"  %{name} = load {kind}, ptr %{name}_cell" for name, kind in kinds.items()]
    stores = [f"  store {kind} %{name}, ptr %{name}_cell" for name, kind in kinds.items()]
    return (
        _GEMM.replace("@LOAD@", "\n".join(cells + loads))
        .replace("@STORE@", "\n".join(cells + stores))
        .replace("@COUNT@", str(len(_FIELDS)))
        .replace("@S@", dtype.short)
        .replace("@T@", element)
    )


@dataclass(frozen=True, slots=True)
class _Plain:
    """Sizes of the generated tile. A panel of B, `depth` by `wide`, is copied so that it streams from the first-level
    cache; `rows` by `wide` sums stay in registers (2 vectors a row, some left for B and a broadcast of A)."""

    dtype: DType
    lanes: int
    rows: int
    depth: int = 128

    @property
    def wide(self) -> int:
        return 2 * self.lanes


_PLAIN = r"""
define internal void @graphc_tile_@S@(i64 %transpose_a, i64 %transpose_b, i64 %m, i64 %n, i64 %k,
    ptr %a, i64 %lda, ptr %b, i64 %ldb, @T@ %beta, ptr %c, i64 %ldc) nounwind {
entry:
  %panel = alloca [@PANEL@ x @T@], align 64
  %sums = alloca [@SUMS@ x @T@], align 64
  %turned_a = icmp ne i64 %transpose_a, 0
  %turned_b = icmp ne i64 %transpose_b, 0
  %row_a = select i1 %turned_a, i64 1, i64 %lda
  %deep_a = select i1 %turned_a, i64 %lda, i64 1
  %deep_b = select i1 %turned_b, i64 1, i64 %ldb
  %column_b = select i1 %turned_b, i64 %ldb, i64 1
  br label %depths
depths:                                           ; once even if k = 0: beta * C is due
  %p = phi i64 [ 0, %entry ], [ %p_next, %depths_end ]
  %k_left = sub i64 %k, %p
  %deep = call i64 @llvm.smin.i64(i64 %k_left, i64 @DEPTH@)
  %first = icmp eq i64 %p, 0
  %scale = select i1 %first, @T@ %beta, @T@ 1.0
  %fresh = fcmp oeq @T@ %scale, 0.0
  br label %columns
columns:
  %j = phi i64 [ 0, %depths ], [ %j_next, %columns_end ]
  %n_left = sub i64 %n, %j
  %width = call i64 @llvm.smin.i64(i64 %n_left, i64 @WIDE@)
  br label %pack_rows
pack_rows:
  %q = phi i64 [ 0, %columns ], [ %q_next, %pack_rows_end ]
  %q_more = icmp slt i64 %q, %deep
  br i1 %q_more, label %pack, label %rows
pack:
  %t = phi i64 [ 0, %pack_rows ], [ %t_next, %packed ]
  %inside = icmp slt i64 %t, %width
  br i1 %inside, label %fetch, label %packed
fetch:
  %pq = add i64 %p, %q
  %jt = add i64 %j, %t
  %b_deep = mul i64 %pq, %deep_b
  %b_column = mul i64 %jt, %column_b
  %b_at = add i64 %b_deep, %b_column
  %b_from = getelementptr @T@, ptr %b, i64 %b_at
  %b_value = load @T@, ptr %b_from
  br label %packed
packed:
  %value = phi @T@ [ 0.0, %pack ], [ %b_value, %fetch ]
  %panel_row = mul i64 %q, @WIDE@
  %panel_at = add i64 %panel_row, %t
  %panel_to = getelementptr @T@, ptr %panel, i64 %panel_at
  store @T@ %value, ptr %panel_to
  %t_next = add i64 %t, 1
  %t_more = icmp slt i64 %t_next, @WIDE@
  br i1 %t_more, label %pack, label %pack_rows_end
pack_rows_end:
  %q_next = add i64 %q, 1
  br label %pack_rows
rows:
  %i = phi i64 [ 0, %pack_rows ], [ %i_next, %rows_end ]
  %m_left = sub i64 %m, %i
  %height = call i64 @llvm.smin.i64(i64 %m_left, i64 @ROWS@)
  %full = icmp eq i64 %height, @ROWS@
  %a_row = mul i64 %i, %row_a
  %a_deep = mul i64 %p, %deep_a
  %a_at = add i64 %a_row, %a_deep
  %a_block = getelementptr @T@, ptr %a, i64 %a_at
  br i1 %full, label %block, label %single
block:
  call void @graphc_block@ROWS@_@S@(ptr %a_block, i64 %row_a, i64 %deep_a, ptr %panel, i64 %deep, ptr %sums)
  br label %write
single:
  %r = phi i64 [ 0, %rows ], [ %r_next, %single ]
  %r_off = mul i64 %r, %row_a
  %r_a = getelementptr @T@, ptr %a_block, i64 %r_off
  %r_sum = mul i64 %r, @WIDE@
  %r_to = getelementptr @T@, ptr %sums, i64 %r_sum
  call void @graphc_block1_@S@(ptr %r_a, i64 %row_a, i64 %deep_a, ptr %panel, i64 %deep, ptr %r_to)
  %r_next = add i64 %r, 1
  %r_more = icmp slt i64 %r_next, %height
  br i1 %r_more, label %single, label %write
write:
  %u = phi i64 [ 0, %block ], [ 0, %single ], [ %u_next, %write_end ]
  %iu = add i64 %i, %u
  %c_row = mul i64 %iu, %ldc
  %c_start = add i64 %c_row, %j
  %sum_row = mul i64 %u, @WIDE@
  br label %write_row
write_row:
  %v = phi i64 [ 0, %write ], [ %v_next, %written ]
  %sum_at = add i64 %sum_row, %v
  %sum_from = getelementptr @T@, ptr %sums, i64 %sum_at
  %sum = load @T@, ptr %sum_from
  %c_at = add i64 %c_start, %v
  %c_to = getelementptr @T@, ptr %c, i64 %c_at
  br i1 %fresh, label %written, label %add
add:
  %before = load @T@, ptr %c_to
@BOTH@
  br label %written
written:
  %result = phi @T@ [ %sum, %write_row ], [ %both, %add ]
  store @T@ %result, ptr %c_to
  %v_next = add i64 %v, 1
  %v_more = icmp slt i64 %v_next, %width
  br i1 %v_more, label %write_row, label %write_end
write_end:
  %u_next = add i64 %u, 1
  %u_more = icmp slt i64 %u_next, %height
  br i1 %u_more, label %write, label %rows_end
rows_end:
  %i_next = add i64 %i, @ROWS@
  %i_more = icmp slt i64 %i_next, %m
  br i1 %i_more, label %rows, label %columns_end
columns_end:
  %j_next = add i64 %j, @WIDE@
  %j_more = icmp slt i64 %j_next, %n
  br i1 %j_more, label %columns, label %depths_end
depths_end:
  %p_next = add i64 %p, @DEPTH@
  %p_more = icmp slt i64 %p_next, %k
  br i1 %p_more, label %depths, label %out
out:
  ret void
}
"""


def _multiply_add(plain: _Plain, fma: bool, name: str, a: str, b: str, total: str) -> list[str]:
    """%name = a * b + total, lane by lane; fused only where that is one instruction."""
    vector = f"<{plain.lanes} x {_element(plain.dtype)}>"
    if fma:
        suffix = f"v{plain.lanes}{plain.dtype.short}"
        return [f"  %{name} = call {vector} @llvm.fma.{suffix}({vector} {a}, {vector} {b}, {vector} {total})"]
    return [f"  %{name}p = fmul {vector} {a}, {b}", f"  %{name} = fadd {vector} {total}, %{name}p"]


def _element(dtype: DType) -> str:
    return "float" if dtype is float32 else "double"


def _block_text(plain: _Plain, rows: int, fma: bool) -> str:
    """LLVM IR: sums[r, :] = sum over q < deep of a[r * row + q * step] * panel[q, :], for r < rows."""
    element, lanes, wide = _element(plain.dtype), plain.lanes, plain.wide
    vector = f"<{lanes} x {element}>"
    width = f'"prefer-vector-width"="{8 * lanes * plain.dtype.itemsize}"'
    cells = [(r, v) for r in range(rows) for v in range(2)]
    enter, leave = [], []
    body = [
        f"  %at = mul i64 %q, {wide}",
        f"  %b0p = getelementptr {element}, ptr %panel, i64 %at",
        f"  %b1p = getelementptr {element}, ptr %b0p, i64 {lanes}",
        *(f"  %b{v} = load {vector}, ptr %b{v}p, align {lanes * plain.dtype.itemsize}" for v in range(2)),
        "  %over = mul i64 %q, %step",
    ]
    for r, v in cells:
        enter.append(f"  %s{r}_{v} = phi {vector} [ zeroinitializer, %entry ], [ %n{r}_{v}, %body ]")
        to = f"  %o{r}_{v} = getelementptr {element}, ptr %sums, i64 {r * wide + v * lanes}"
        leave += [to, f"  store {vector} %s{r}_{v}, ptr %o{r}_{v}, align {lanes * plain.dtype.itemsize}"]
    for r in range(rows):
        body += [
            f"  %i{r} = mul i64 %row, {r}",
            f"  %j{r} = add i64 %i{r}, %over",
            f"  %p{r} = getelementptr {element}, ptr %a, i64 %j{r}",
            f"  %x{r} = load {element}, ptr %p{r}",
            f"  %y{r} = insertelement {vector} poison, {element} %x{r}, i64 0",
            f"  %a{r} = shufflevector {vector} %y{r}, {vector} poison, <{lanes} x i32> zeroinitializer",
        ]
        for v in range(2):
            body += _multiply_add(plain, fma, f"n{r}_{v}", f"%a{r}", f"%b{v}", f"%s{r}_{v}")
    return "\n".join(
        [
            f"define internal void @graphc_block{rows}_{plain.dtype.short}(ptr %a, i64 %row, i64 %step, ptr %panel,",
            f"    i64 %deep, ptr %sums) nounwind noinline {width} {{",
            *("entry:", "  br label %head", "head:", "  %q = phi i64 [ 0, %entry ], [ %q_next, %body ]", *enter),
            *("  %more = icmp slt i64 %q, %deep", "  br i1 %more, label %body, label %out", "body:", *body),
            *("  %q_next = add i64 %q, 1", "  br label %head", "out:", *leave, "  ret void", "}"),
        ]
    )


def plain_tile_text(dtype: DType, target: Target) -> str:
    """LLVM IR of @graphc_tile_<dtype> that needs no library, and of the register blocks it calls."""
    lanes = target.lanes(dtype)
    plain = _Plain(dtype, lanes, rows=12 if target.vector_registers == 32 else 6)
    element, suffix = _element(dtype), f"v{lanes}{dtype.short}"
    both, declared = f"  %scaled = fmul {element} %scale, %before\n  %both = fadd {element} %scaled, %sum", ""
    if target.fma:  # elsewhere @llvm.fma would call libm for each element
        vector = f"<{lanes} x {element}>"
        both = f"  %both = call {element} @llvm.fma.{dtype.short}({element} %scale, {element} %before, {element} %sum)"
        declared = (
            f"declare {element} @llvm.fma.{dtype.short}({element}, {element}, {element})\n"
            f"declare {vector} @llvm.fma.{suffix}({vector}, {vector}, {vector})\n"
        )
    words = {
        "@BOTH@": both,
        "@S@": dtype.short,
        "@T@": element,
        "@PANEL@": str(plain.depth * plain.wide),
        "@SUMS@": str(plain.rows * plain.wide),
        "@DEPTH@": str(plain.depth),
        "@WIDE@": str(plain.wide),
        "@ROWS@": str(plain.rows),
    }
    text = _PLAIN
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    blocks = "\n".join(_block_text(plain, rows, target.fma) for rows in (1, plain.rows))
    return f"{declared}{text}\n{blocks}\n"


def gemm_text(blas: Blas | None, target: Target) -> str:
    """LLVM IR that defines @graphc_gemm_f32 and _f64, on @graphc_parallel and the BLAS given, or on none."""
    parts = [
        "declare i64 @llvm.smin.i64(i64, i64)",
        "declare i64 @llvm.smax.i64(i64, i64)",
        control_text(blas),
    ]
    for dtype in (float32, float64):
        tile = tile_text(dtype.short, blas.integer_bits) if blas is not None else plain_tile_text(dtype, target)
        parts += [tile, _gemm_text(dtype)]
    return "\n".join(parts)
