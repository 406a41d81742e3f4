"""Dynamic mode in one minute: tensors, the tape, gradients, in-place writes and their errors."""

import graphc as gc

# Arrays follow the array API standard; autograd follows PyTorch.
x = gc.tensor([1.0, 2.0, 3.0], requires_grad=True)
y = gc.exp(-x * x).sum()
y.backward()
print("y          ", y.item())
print("dy/dx      ", x.grad)
print("-2x e^-x^2 ", (-2 * x * gc.exp(-x * x)).detach())

# Python decides what is computed: the tape remembers what happened, whatever the control flow.
z = gc.tensor(3.0, requires_grad=True)
steps, w = 0, z
while w < 100:
    w, steps = w * w, steps + 1
w.backward()
print(f"squared {steps} times: d(z**{2**steps})/dz =", z.grad)


# Gradients are tensors: differentiate them again.
def f(t):
    return (t**3).sum()


print("second derivative of t^3:", gc.grad(gc.grad(f))(gc.tensor(2.0)))
print("Hessian-vector product:  ", gc.hvp(f, (gc.tensor([1.0, 2.0]),), (gc.tensor([1.0, 0.0]),))[0])

# The branch of `where` that isn't taken never poisons the gradient.
t = gc.tensor([-1.0, 0.0, 4.0], requires_grad=True)
gc.where(t > 0, gc.sqrt(t), 0.0).sum().backward()
print("gradient through where:  ", t.grad)

# A value that the derivative needs must not be overwritten; the error says who did it.
a = gc.tensor([1.0, 2.0], requires_grad=True)
b = a * a
c = b * b
b += 1
try:
    c.sum().backward()
except gc.InplaceError as error:
    print("InplaceError:", error)
