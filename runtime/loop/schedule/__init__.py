"""From a Nest to a Kernel: which loop is parallel, which fills vector lanes, what stays in registers.

cpu.py        the entry, `schedule_cpu(nest, target)`: collapse, choose, emit
collapse.py   drops loops of one iteration and joins loops that walk memory as one
cost.py       what a stage costs along a given vector axis: accesses and arithmetic, counted
choose.py     Plan: the choice of vector axis, register tile, loop order and parallel loop, by least cost
emit.py       a Nest and a Plan -> the statements of a Kernel
folds.py      the part of emit that accumulates in registers and folds lanes
rewrite.py    substitution and simplification in expressions
"""
