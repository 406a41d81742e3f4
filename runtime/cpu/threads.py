"""The fork-join pool that parallel loops run on, as LLVM IR on libc alone.

What generated code sees (PARALLEL_DECLARATION):

    declare void @graphc_parallel(ptr %task, ptr %args, i64 %count, i64 %grain)

runs `task(args, begin, end)`, of type `void (ptr args, i64 begin, i64 end)`, over disjoint ranges that together
cover 0 <= i < count, each of at least `grain` iterations (the last may be shorter), on any threads, and returns
when all are done. Where the cuts fall depends on nothing that a task may observe: results must not depend on them.
count <= 0 runs nothing; one range is run directly by the caller. A task may call @graphc_parallel
again: the inner call then runs serially. Choose `grain` so that a range is some 10 microseconds of work
or more.
"""

from __future__ import annotations

PARALLEL_DECLARATION = "declare void @graphc_parallel(ptr, ptr, i64, i64)"
