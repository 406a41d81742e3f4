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
"""

from __future__ import annotations

GEMM_DECLARATIONS = {
    "float32": "declare void @graphc_gemm_f32(i64, i64, i64, i64, i64, ptr, i64, ptr, i64, float, ptr, i64, "
    "i64, i64, i64, i64)",
    "float64": "declare void @graphc_gemm_f64(i64, i64, i64, i64, i64, ptr, i64, ptr, i64, double, ptr, i64, "
    "i64, i64, i64, i64)",
}
