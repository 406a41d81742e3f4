"""Special functions that NumPy lacks, for the eager mode: erf.

float64: rational approximations of fdlibm's s_erf.c (Sun Microsystems, 1993; error below 1 ulp), evaluated over whole
arrays. float32: the polynomials of the compiled mode (see runtime/cpu/math/error_function.py), error below 2 ulp.
"""

from __future__ import annotations

from typing import Any

from graphc.ops.selection import select

_SMALL_P = (1.28379167095512558561e-01, -3.25042107247001499370e-01, -2.84817495755985104766e-02,
            -5.77027029648944159157e-03, -2.37630166566501626084e-05)  # fmt: skip
_SMALL_Q = (1.0, 3.97917223959155352819e-01, 6.50222499887672944485e-02, 5.08130628187576562776e-03,
            1.32494738004321644526e-04, -3.96022827877536812320e-06)  # fmt: skip
_NEAR_ONE = 8.45062911510467529297e-01  # erf(1) rounded to 24 bits
_ONE_P = (-2.36211856075265944077e-03, 4.14856118683748331666e-01, -3.72207876035701323847e-01,
          3.18346619901161753674e-01, -1.10894694282396677476e-01, 3.54783043256182359371e-02,
          -2.16637559486879084300e-03)  # fmt: skip
_ONE_Q = (1.0, 1.06420880400844228286e-01, 5.40397917702171048937e-01, 7.18286544141962662868e-02,
          1.26171219808761642112e-01, 1.36370839120290507362e-02, 1.19844998467991074170e-02)  # fmt: skip
_MID_P = (-9.86494403484714822705e-03, -6.93858572707181764372e-01, -1.05586262253232909814e+01,
          -6.23753324503260060396e+01, -1.62396669462573470355e+02, -1.84605092906711035994e+02,
          -8.12874355063065934246e+01, -9.81432934416914548592e+00)  # fmt: skip
_MID_Q = (1.0, 1.96512716674392571292e+01, 1.37657754143519042600e+02, 4.34565877475229228821e+02,
          6.45387271733267880336e+02, 4.29008140027567833386e+02, 1.08635005541779435134e+02,
          6.57024977031928170135e+00, -6.04244152148580987438e-02)  # fmt: skip
_FAR_P = (-9.86494292470009928597e-03, -7.99283237680523006574e-01, -1.77579549177547519889e+01,
          -1.60636384855821916062e+02, -6.37566443368389627722e+02, -1.02509513161107724954e+03,
          -4.83519191608651397019e+02)  # fmt: skip
_FAR_Q = (1.0, 3.03380607434824582924e+01, 3.25792512996573918826e+02, 1.53672958608443695994e+03,
          3.19985821950859553908e+03, 2.55305040643316442583e+03, 4.74528541206955367215e+02,
          -2.24409524465858183362e+01)  # fmt: skip

# float32: erf(x) / x - 1 as a polynomial of x^2 on [0, 1]; log(erfc(x)) on [1, HIGH], above which erf(x) rounds to 1.
HIGH = 4.0
NEAR = (0.12837916612625122, -0.3761262595653534, 0.11283578723669052, -0.026853347197175026, 0.005187162198126316,
        -0.0007997853099368513, 7.806903886375949e-05)  # fmt: skip
FAR = (-0.0003537268494255841, -1.1270400285720825, -0.6382256746292114, -0.10303735733032227, 0.021805288270115852,
       -0.002939587226137519, 0.00018556974828243256)  # fmt: skip

_BLOCK = 32768  # elements worked on at a time: their temporaries stay in the cache, and calls are few


def _horner(coefficients: tuple[float, ...], x: Any) -> Any:
    total = coefficients[-1] * x
    for c in coefficients[-2:0:-1]:
        total += c
        total *= x
    total += coefficients[0]
    return total


def erf(xp: Any, x: Any) -> Any:
    """The error function of a floating array of any shape, same shape and dtype."""
    x = xp.asarray(x)
    function = _erf_short if x.dtype == xp.float32 else _erf
    if x.size <= _BLOCK or hasattr(x, "__cuda_array_interface__"):
        return function(xp, x)
    flat = x.reshape(-1)
    out = xp.empty_like(flat)
    for start in range(0, flat.size, _BLOCK):
        out[start : start + _BLOCK] = function(xp, flat[start : start + _BLOCK])
    return out.reshape(x.shape)


def _erf_short(xp: Any, x: Any) -> Any:
    """erf of a float32 array. Both pieces are computed everywhere: that takes less time than taking numbers apart."""
    magnitude = xp.atleast_1d(xp.minimum(xp.abs(x), xp.float32(HIGH)))
    near = _horner(NEAR, magnitude * magnitude)
    near *= magnitude
    near += magnitude
    far = xp.exp(_horner(FAR, magnitude))
    xp.subtract(1, far, out=far)
    return xp.copysign(select(xp, magnitude > 1, far, near).reshape(x.shape), x)


def _erf(xp: Any, x: Any) -> Any:
    w = xp.atleast_1d(x.astype(xp.float64))
    a = xp.abs(w)
    out = xp.where(xp.isnan(w), w, xp.sign(w))  # beyond 6 the result rounds to +-1

    small = a < 0.84375
    v = w[small]
    z = v * v
    out[small] = v + v * (_horner(_SMALL_P, z) / _horner(_SMALL_Q, z))

    middle = (a >= 0.84375) & (a < 1.25)
    s = a[middle] - 1.0
    out[middle] = xp.copysign(_NEAR_ONE + _horner(_ONE_P, s) / _horner(_ONE_Q, s), w[middle])

    for low, high, p, q in ((1.25, 1 / 0.35, _MID_P, _MID_Q), (1 / 0.35, 6.0, _FAR_P, _FAR_Q)):
        part = (a >= low) & (a < high)
        v = a[part]
        s = 1.0 / (v * v)
        # exp(-v*v) from a head of 32 bits, so that the square is exact
        head = (v.view(xp.int64) & ~0xFFFFFFFF).view(xp.float64)
        tail = xp.exp(-head * head - 0.5625) * xp.exp((head - v) * (head + v) + _horner(p, s) / _horner(q, s))
        out[part] = xp.copysign(1.0 - tail / v, w[part])
    return out.astype(x.dtype).reshape(x.shape)
