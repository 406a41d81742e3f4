"""The CPU target: LLVM printer, vector mathematics, threads, BLAS, loading machine code."""
