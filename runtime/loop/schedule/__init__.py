"""From a Nest to a Kernel: which loop is parallel, which fills vector lanes, what stays in registers.

    cpu.py        the entry, `schedule_cpu(nest, target)`: collapse, choose, emit
    collapse.py   drops loops of one iteration and joins loops that walk memory as one
    cost.py       what a stage costs along a given vector axis: accesses and arithmetic, counted
    registers.py  how many accumulators, along which axes
    memory.py     what an order of loops moves between the caches
    columns.py    strips of lanes that walk down the rows of an array
    split.py      sums taken in pieces that fit a cache
    choose.py     Plan: vector axis, register tile, loop order, parallel loop, packing; by least cost of all the above
    emit.py       a nest's facts and a Plan -> the statements of a Kernel
    folds.py      the part of emit that accumulates in registers and folds lanes
    staging.py    what a step of a fold loads, and asks for ahead
    fetch.py      what an epilogue reads and writes, asked for while the fold before it runs
    turn.py       squares of registers transposed, where memory runs along the rows of a tile
    borders.py    axes cut where conditions on them are decided
    tile.py       the points that are worked on side by side
    rewrite.py    substitution and simplification in expressions

Everything is found by structure (strides, reuse, conditions); no operation is known by name.
"""
