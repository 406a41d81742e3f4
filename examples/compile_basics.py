"""Static mode in one minute: what gc.compile captures, rewrites and generates."""

import time

import numpy as np

import graphc as gc


def normal(x):
    return 0.5 * (1 + gc.erf(x / np.sqrt(2)))


def black_scholes(spot, strike, years, rate, volatility):
    deviation = volatility * gc.sqrt(years)
    d1 = (gc.log(spot / strike) + (rate + 0.5 * volatility**2) * years) / deviation
    d2 = d1 - deviation
    return spot * normal(d1) - strike * gc.exp(-rate * years) * normal(d2)


n = 200_000
generator = np.random.default_rng(0)
spot, strike = (gc.asarray(generator.uniform(50, 150, n).astype(np.float32)) for _ in range(2))
years = gc.asarray(generator.uniform(0.1, 2, n).astype(np.float32))

fast = gc.compile(black_scholes)
fast(spot, strike, years, 0.03, 0.2)  # traced, optimised and compiled here; a float argument is an input
for name, function in (("eager", black_scholes), ("compiled", fast)):
    start = time.perf_counter()
    price = function(spot, strike, years, 0.03, 0.2)
    print(f"{name:9} {1e3 * (time.perf_counter() - start):7.2f} ms  mean price {price.mean().item():.5f}")
fast(spot, strike, years, 0.05, 0.3)  # another rate: nothing is compiled again
print("compilations:", fast.history)

# The derivative of a formula is a formula. Here it is, after the passes have simplified it.
delta = gc.compile(gc.grad(lambda s: gc.tanh(s) * s))
print("\nd/ds tanh(s) * s at 0.5:", delta(gc.tensor(0.5)))
print(gc.print_graph(delta.graphs()[-2].graph))

# What is captured may change; what is frozen is guarded.
scale = 2.0


@gc.compile
def scaled(x):
    return x * scale


print("\n", scaled(gc.tensor([1.0, 2.0])))
scale = 10.0
print(scaled(gc.tensor([1.0, 2.0])))
print("compilations:", scaled.history)


# A traced value has no number yet: branching on it is an error that says what to write instead.
@gc.compile
def relu_by_if(x):
    return x if x.sum() > 0 else 0 * x


try:
    relu_by_if(gc.tensor([1.0]))
except gc.TraceError as error:
    print("\nTraceError:", error)

print("\nWhat one call of `fast` runs:")
print(str(fast.explain())[:1500])
