"""Formulas that lose digits, overflow or cancel, replaced by equal ones that don't.

Run before differentiation, so that derivatives are those of the stable formula, and after it, since derivatives
have such formulas of their own (1 - tanh(x)^2). Rounding changes, always for the better; every rule says what it
mends, and explain() lists those that made a node. Identities hold for all real operands; what a rule changes at
infinities, overflow or singular points (a limit instead of nan, the sign of a zero) is said with it.

Sources: Mächler, "Accurately computing log(1 - exp(-|a|))", 2012; Blanchard, Higham & Higham, "Accurately computing
the log-sum-exp and softmax functions", 2021; Kahan, "Branch cuts for complex elementary functions", 1987.
"""

from __future__ import annotations

import math

import numpy as np

from graphc.ir.graph import Graph
from graphc.ir.node import Node, constant_value
from graphc.ir.rewrite import RewriteFunction, Rule, rewrite
from graphc.ops import elementwise as ew
from graphc.ops import logistic as lg
from graphc.ops import marks
from graphc.ops import movement as mv
from graphc.ops import reduction as red
from graphc.passes import simplify
from graphc.passes.patterns import (
    added_to_one,
    argument,
    as_type_of,
    is_number,
    negated,
    never_positive,
    opposite,
    pairs,
    square,
    sum_of,
    taken_from_one,
)
from graphc.passes.series import QUOTIENTS, is_far_branch, quotient
from graphc.primitive import Primitive, Value

_LOG_2 = math.log(2.0)

# ----------------------------------------------------------------------------------------- logarithms


def log_of_exponential(node: Node) -> Node | None:
    """log(exp(x)) = x."""
    return argument(ew.EXP, node.inputs[0])


def log_near_one(node: Node) -> Node | None:
    """log(1 + z) = log1p(z), log(1 - z) = log1p(-z)."""
    (x,) = node.inputs
    z = added_to_one(x)
    if z is not None:
        return as_type_of(ew.log1p(z), node)
    z = taken_from_one(x)
    return None if z is None else as_type_of(ew.log1p(negated(z)), node)


def log_of_one_plus_exponential(node: Node) -> Node | None:
    """log1p(exp(x)) = softplus(x)."""
    x = argument(ew.EXP, node.inputs[0])
    return None if x is None or never_positive(x) else lg.softplus(x)


def log_of_one_minus_exponential(node: Node) -> Node | None:
    """log(0 - expm1(x)) and log1p(-exp(x)), where x <= 0: by the first above -log 2, by the second below."""
    (inner,) = node.inputs
    if node.op is ew.LOG:
        minus = inner.op is ew.SUBTRACT and is_number(inner.inputs[0], 0)
        exponential = inner.inputs[1] if minus else argument(ew.NEGATIVE, inner)
        x = None if exponential is None else argument(ew.EXPM1, exponential)
    else:
        exponential = argument(ew.NEGATIVE, inner)
        x = None if exponential is None else argument(ew.EXP, exponential)
    if x is None or _is_split(x):
        return None
    near: Value = ew.greater(x, -_LOG_2)
    # 0 - expm1(x), not its negative: at x = 0 the logarithm's operand is then +0, and its derivative -inf as it should
    upper = ew.log(ew.subtract(0, ew.expm1(ew.where(near, x, -_LOG_2))))
    lower = ew.log1p(ew.negative(ew.exp(ew.where(near, -_LOG_2, x))))
    return as_type_of(ew.where(near, upper, lower), node)


def _is_split(x: Node) -> bool:
    """Whether x is already one branch's operand of `log_of_one_minus_exponential`."""
    return x.op is ew.WHERE and x.inputs[0].op is ew.GREATER and any(_is_minus_log_2(n) for n in x.inputs[1:])


def _is_minus_log_2(node: Node) -> bool:
    value = constant_value(node)
    return value is not None and value.shape == () and bool(value == value.dtype.type(-_LOG_2))


def log_of_sum_of_two(node: Node) -> Node | None:
    """log(exp(a) + exp(b)) = max(a, b) + log1p(exp(-|a - b|))."""
    (total,) = node.inputs
    if total.op is not ew.ADD or any(n.op is not ew.EXP for n in total.inputs):
        return None
    a, b = (n.inputs[0] for n in total.inputs)
    # infinities of one sign are no distance apart; their difference would be nan
    level = ew.logical_and(ew.equal(a, b), ew.equal(ew.abs(a), math.inf))
    d: Value = ew.where(level, 0, ew.subtract(b, a))
    above = ew.greater(d, 0)
    rest = ew.log1p(ew.exp(ew.where(above, ew.negative(d), d)))
    return as_type_of(ew.add(ew.where(above, b, a), rest), node)


def log_of_sum(node: Node) -> Node | None:
    """log(sum(exp(x))) = m + log(sum(exp(x - m))), m = max(x)."""
    (total,) = node.inputs
    x = argument(ew.EXP, total.inputs[0]) if total.op is red.SUM else None
    if x is None or never_positive(x) or 0 in x.shape:
        return None
    return red.logsumexp(x, total.attrs["axes"], total.attrs["keepdims"])  # type: ignore[no-any-return]


def log_of_quotient(node: Node) -> Node | None:
    """log(exp(z) / b) = z - log(b); of a softmax, its logarithm without underflow.

    At b = -0 it is inf, where it was nan.
    """
    (ratio,) = node.inputs
    if ratio.op is not ew.DIVIDE or ratio.inputs[0].op is not ew.EXP:
        return None
    z, b = ratio.inputs[0].inputs[0], ratio.inputs[1]
    return as_type_of(ew.subtract(z, ew.log(b)), node)


def log_of_sigmoid(node: Node) -> Node | None:
    """log(sigmoid(x)) = -softplus(-x)."""
    x = argument(lg.SIGMOID, node.inputs[0])
    return None if x is None else ew.negative(lg.softplus(negated(x)))


# --------------------------------------------------------------------------------------- exponentials


def exponential_less_one(node: Node) -> Node | None:
    """exp(x) - 1 = expm1(x); 1 - exp(x) = 0 - expm1(x); exp(x) - exp(-x) = expm1(x) - expm1(-x)."""
    if node.op is ew.ADD:
        found = next((argument(ew.EXP, a) for a, b in pairs(node) if is_number(b, -1)), None)
        return None if found is None else as_type_of(ew.expm1(found), node)
    a, b = node.inputs
    x, z = argument(ew.EXP, a), argument(ew.EXP, b)
    if x is not None and is_number(b, 1):
        return as_type_of(ew.expm1(x), node)
    if z is not None and is_number(a, 1):
        return as_type_of(ew.subtract(0, ew.expm1(z)), node)
    if x is not None and z is not None and opposite(x, z):
        return ew.subtract(ew.expm1(x), ew.expm1(z))  # type: ignore[no-any-return]
    return None


def exponential_again(node: Node) -> Node | None:
    """expm1(x) + 1 = exp(x), which is how expm1's derivative comes."""
    z = added_to_one(node)
    x = None if z is None else argument(ew.EXPM1, z)
    return None if x is None else as_type_of(ew.exp(x), node)


def logistic(node: Node) -> Node | None:
    """a / (1 + exp(z)) = a * sigmoid(-z), exp(z) / (1 + exp(z)) = sigmoid(z)."""
    a, below = node.inputs
    e = added_to_one(below)
    z = None if e is None else argument(ew.EXP, e)
    if e is None or z is None or never_positive(z):
        return None
    if a is e:
        return as_type_of(lg.sigmoid(z), node)
    if is_number(a, 1):
        return as_type_of(lg.sigmoid(negated(z)), node)
    return as_type_of(ew.multiply(a, lg.sigmoid(negated(z))), node)


def logistic_complement(node: Node) -> Node | None:
    """1 - sigmoid(x) = sigmoid(-x)."""
    s = taken_from_one(node)
    x = None if s is None else argument(lg.SIGMOID, s)
    return None if x is None else as_type_of(lg.sigmoid(negated(x)), node)


def hyperbolic_tangent(node: Node) -> Node | None:
    """(exp(a) - exp(b)) / (exp(a) + exp(b)) = tanh((a - b) / 2)."""
    top, below = node.inputs
    if top.op is not ew.SUBTRACT or below.op is not ew.ADD:
        return None
    exponents = [argument(ew.EXP, n) for n in below.inputs]
    found = [argument(ew.EXPM1, n) or argument(ew.EXP, n) for n in top.inputs]
    if None in exponents or None in found or {id(n) for n in exponents} != {id(n) for n in found}:
        return None
    a, b = found
    if a is None or b is None or a is b:
        return None
    if opposite(a, b):
        return ew.tanh(a)  # type: ignore[no-any-return]
    return as_type_of(ew.tanh(ew.multiply(0.5, ew.subtract(a, b))), node)


def hyperbolic_secant(node: Node) -> Node | None:
    """1 - tanh(x)^2 = 4 e / (1 + e)^2 with e = exp(-2|x|): tanh's derivative where tanh rounds to 1."""
    inner = taken_from_one(node)
    y = None if inner is None else square(inner)
    x = None if y is None else argument(ew.TANH, y)
    if x is None:
        return None
    e = ew.exp(ew.multiply(2, ew.where(ew.greater(x, 0), negated(x), x)))
    below = ew.add(e, 1)
    return as_type_of(ew.divide(ew.multiply(4, e), ew.multiply(below, below)), node)


def near_saturation(node: Node) -> Node | None:
    """1 + tanh(x) = 2 sigmoid(2x), 1 - tanh(x) = 2 sigmoid(-2x)."""
    z = added_to_one(node)
    x = None if z is None else argument(ew.TANH, z)
    if x is None:
        z = taken_from_one(node)
        x = None if z is None else argument(ew.TANH, z)
        x = None if x is None else negated(x)
    return None if x is None else as_type_of(ew.multiply(2, lg.sigmoid(ew.multiply(2, x))), node)


def softmax(node: Node) -> Node | None:
    """exp(x) / sum(exp(x)) = exp(x - m) / sum(exp(x - m)), m = max(x)."""
    e, below = node.inputs
    x = argument(ew.EXP, e)
    total = None if x is None else sum_of(e, below)
    if x is None or total is None or never_positive(x) or 0 in x.shape:
        return None
    axes = total.attrs["axes"]
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    if not _aligned(below, kept):
        return None
    top = marks.stop_gradient(red.max(x, axes, keepdims=True))
    shifted = ew.exp(ew.subtract(x, top))
    return as_type_of(ew.divide(shifted, red.sum(shifted, axes, keepdims=True)), node)


def _aligned(below: Node, kept: tuple[int, ...]) -> bool:
    """Whether the divisor stands against the numerator as the sum with its axes kept does."""
    while below.op is mv.BROADCAST_TO:
        below = below.inputs[0]
    lead = len(kept) - below.ndim
    return lead >= 0 and all(n == 1 for n in kept[:lead]) and below.shape == kept[lead:]


# ------------------------------------------------------------------------------- roots, cosines, quotients


def difference_of_roots(node: Node) -> Node | None:
    """sqrt(x + c) - sqrt(x) = c / (sqrt(x + c) + sqrt(x)), for a finite c != 0; 0 at x = inf, where it was nan."""
    a, b = node.inputs
    if a.op is not ew.SQRT or b.op is not ew.SQRT:
        return None
    (x, c), (z, d) = _offset(a.inputs[0]), _offset(b.inputs[0])
    if x is not z or not np.isfinite(c - d) or c == d:
        return None
    with np.errstate(all="ignore"):
        exact = node.dtype.numpy.type(c - d) == c - d
    return as_type_of(ew.divide(c - d, ew.add(a, b)), node) if exact else None


def _offset(node: Node) -> tuple[Node, float]:
    """(x, c) of x + c with a constant number c; (node, 0) otherwise."""
    if node.op is ew.ADD:
        for a, b in pairs(node):
            value = constant_value(b)
            if value is not None and value.size == 1:
                return a, float(value.reshape(-1)[0])
    if node.op is ew.SUBTRACT:
        value = constant_value(node.inputs[1])
        if value is not None and value.size == 1:
            return node.inputs[0], -float(value.reshape(-1)[0])
    return node, 0.0


def root_of_square(node: Node) -> Node | None:
    """sqrt(x * x) = |x|, without overflow or underflow; the derivative at 0 is 0, where it was nan."""
    x = square(node.inputs[0])
    return None if x is None else ew.abs(x)


def one_less_cosine(node: Node) -> Node | None:
    """1 - cos(x) = 2 sin(x/2)^2; cos(x) - 1 = -2 sin(x/2)^2."""
    a, b = node.inputs
    sign = 1
    x = argument(ew.COS, b) if is_number(a, 1) else None
    if x is None and node.op is ew.SUBTRACT and is_number(b, 1):
        x, sign = argument(ew.COS, a), -1
    if x is None:
        return None
    s = ew.sin(ew.multiply(0.5, x))
    return as_type_of(ew.multiply(2 * sign, ew.multiply(s, s)), node)


def quotient_at_zero(node: Node) -> Node | None:
    """f(x)/x and x/f(x) for f = expm1, log1p, sin: by f's series near 0 (see passes/series.py)."""
    top, below = node.inputs
    if top.op in QUOTIENTS and top.inputs[0] is below and not is_far_branch(below):
        return quotient(top.op, below)
    if below.op in QUOTIENTS and below.inputs[0] is top and not is_far_branch(top):
        return ew.divide(1, quotient(below.op, top))  # type: ignore[no-any-return]
    return None


def versine_quotient(node: Node) -> Node | None:
    """(1 - cos(x)) / x^2 = (sin(x/2) / (x/2))^2 / 2, after `one_less_cosine`."""
    top, below = node.inputs
    x = square(below)
    if x is None or top.op is not ew.MULTIPLY:
        return None
    for factor, rest in pairs(top):
        s = square(rest)
        half = None if s is None else argument(ew.SIN, s)
        if half is None or half.op is not ew.MULTIPLY or not (is_number(factor, 2) or is_number(factor, -2)):
            continue
        if any(is_number(a, 0.5) and b is x for a, b in pairs(half)):
            q = quotient(ew.SIN, half)
            return ew.multiply(0.5 if is_number(factor, 2) else -0.5, ew.multiply(q, q))  # type: ignore[no-any-return]
    return None


def _rule(name: str, apply: RewriteFunction, reason: str, *ops: Primitive) -> Rule:
    return Rule(name, apply, reason, exact=False, ops=ops)


RULES = (
    _rule("log of exp", log_of_exponential, "exp overflows beyond 709 (88 in float32)", ew.LOG),
    _rule("log of sigmoid", log_of_sigmoid, "sigmoid underflows to 0", ew.LOG),
    _rule("log of quotient", log_of_quotient, "a quotient of exponentials underflows to 0", ew.LOG),
    _rule("log of sum of two", log_of_sum_of_two, "exp overflows, or both terms underflow", ew.LOG),
    _rule("log of sum", log_of_sum, "exp overflows, or all terms underflow", ew.LOG),
    _rule("log near 1", log_near_one, "1 + z rounds z's digits away", ew.LOG),
    _rule(
        "log of 1 - exp",
        log_of_one_minus_exponential,
        "1 - exp(x) cancels near 0, and rounds to 1 far from it",
        ew.LOG,
        ew.LOG1P,
    ),
    _rule("softplus", log_of_one_plus_exponential, "exp overflows beyond 709 (88 in float32)", ew.LOG1P),
    _rule("exp less 1", exponential_less_one, "exp(x) - 1 cancels near 0", ew.ADD, ew.SUBTRACT),
    _rule("exp again", exponential_again, "expm1(x) + 1 cancels where x is far below 0", ew.ADD),
    _rule("tanh", hyperbolic_tangent, "inf / inf where exp overflows", ew.DIVIDE),
    _rule("softmax", softmax, "inf / inf where exp overflows, 0 / 0 where all terms underflow", ew.DIVIDE),
    _rule("logistic", logistic, "exp overflows, and the derivative is nan", ew.DIVIDE),
    _rule("1 - sigmoid", logistic_complement, "cancels where sigmoid is near 1", ew.SUBTRACT),
    _rule("1 - tanh^2", hyperbolic_secant, "cancels where tanh is near 1", ew.SUBTRACT),
    _rule("1 + tanh", near_saturation, "cancels where tanh is near -1 (1 - tanh: near 1)", ew.ADD, ew.SUBTRACT),
    _rule("difference of roots", difference_of_roots, "two nearly equal roots cancel", ew.SUBTRACT),
    _rule("root of square", root_of_square, "x * x overflows, and its root has no derivative at 0", ew.SQRT),
    _rule("1 - cos", one_less_cosine, "cancels near 0", ew.SUBTRACT),
    _rule("(1 - cos)/x^2", versine_quotient, "its derivative is a difference of numbers near 1/x", ew.DIVIDE),
    _rule("f(x)/x", quotient_at_zero, "its derivative is a difference of numbers near 1/x", ew.DIVIDE),
)


STABLE = (*simplify.RULES, *RULES)  # simplifies as well: what rules build


def stabilise(graph: Graph) -> Graph:
    """The same function of real numbers, by formulas that keep more digits."""
    return rewrite(graph, STABLE)


def stabilise_derivative(graph: Graph) -> Graph:
    """stabilise, once no derivative is left to take."""
    return rewrite(graph, (simplify.UNMARK, *STABLE))
