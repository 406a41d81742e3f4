"""Newton's method by the exact Hessian, compiled: the minimum of Rosenbrock's function in a few steps."""

import numpy as np

import graphc as gc


def rosenbrock(x):
    """sum of 100 (x[i+1] - x[i]^2)^2 + (1 - x[i])^2; minimum 0 at (1, ..., 1). x: (n,)."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


@gc.compile
def derivatives(x):
    """Value, gradient and Hessian in one compiled call."""
    value, gradient = gc.value_and_grad(rosenbrock)(x)
    return value, gradient, gc.hessian(rosenbrock)(x)


x = gc.tensor([-1.2, 1.0, -0.5, 0.8, 1.1, 0.3], dtype=gc.float64)
print("step  f(x)         |gradient|")
for step in range(30):
    value, gradient, hessian = (t.numpy() for t in derivatives(x))
    size = np.abs(gradient).max()
    print(f"{step:4}  {value:.6e}  {size:.3e}")
    if size < 1e-12:
        break
    direction = np.linalg.solve(hessian, gradient)
    if direction @ gradient < 0:  # not convex here: take the gradient's direction
        direction = gradient / size
    length = 1.0
    while rosenbrock(x - length * gc.asarray(direction)).item() > value and length > 1e-10:
        length /= 2
    x = x - length * gc.asarray(direction)
print("x =", x.numpy())
assert np.allclose(x.numpy(), 1.0)
