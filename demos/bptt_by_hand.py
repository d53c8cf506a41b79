"""Backpropagation through time three ways: by hand, by the engine, by complex step.

The recurrent net of the lecture on a sequence of 3 steps, with E the sum of all E^t:

    a^t = U x^t + W h^{t-1} + b        h^t = tanh(a^t)
    o^t = V h^t + c                    E^t = -log softmax(o^t)[target^t]

By hand, the chain of partial derivatives:

    dE^t/dV = dE^t/do^t do^t/dV
    dE^t/dW = sum over k = 1 .. t of  dE^t/dh^t  dh^t/dh^k  dh^k/dW
    dh^t/dh^k = product over j = t, t-1, ..., k+1 of  diag(1 - h^j * h^j) W

and likewise for U.  A last column leaves out the terms with k < t, the recurrent path to earlier
steps, to show that such a mistake is caught.

EXERCISE: the initial state can be learned, too.  Write `initial_by_hand(V, W, U, b, c, h0, xs,
targets)`, dE/dh^0 (H,), by the same chain: sum over t of dE^t/dh^t dh^t/dh^0.
`pytest -k initial_by_hand` grades it.
"""

import argparse
from itertools import combinations

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos.engine_on_one_page import complex_step

TOLERANCE = 1e-10
T, D, H, K = 3, 2, 2, 3  # steps, inputs, hidden units, classes


def example(rng):
    """The weights to differentiate, and the rest of the net and its data, both by name."""
    weights = {"V": rng.normal(size=(K, H)), "W": rng.normal(size=(H, H))}
    weights["U"] = rng.normal(size=(H, D))
    rest = {"b": rng.normal(size=H), "c": rng.normal(size=K), "h0": rng.normal(size=H)}
    return weights, rest | {"xs": rng.normal(size=(T, D)), "targets": rng.integers(K, size=T)}


def error(V, W, U, b, c, h0, xs, targets):
    """E; of Tensors for the engine, of complex arrays for the complex step."""
    h, E = h0, 0.0
    for x, target in zip(xs, targets, strict=True):
        h = tg.tanh(U @ x + W @ h + b)
        E = E - tg.log_softmax(V @ h + c)[target]
    return E


def by_hand(V, W, U, b, c, h0, xs, targets, reach=T):
    """dE/dV, dE/dW, dE/dU by the chain above; k goes from t down to t - `reach`."""
    gradients = {"V": np.zeros_like(V), "W": np.zeros_like(W), "U": np.zeros_like(U)}
    h, x = [h0], [None, *xs]  # so that h[t] is h^t and x[t] is x^t
    for t in range(1, T + 1):
        h.append(np.tanh(U @ x[t] + W @ h[t - 1] + b))
        o = V @ h[t] + c
        do = np.exp(o) / np.exp(o).sum() - np.eye(K)[targets[t - 1]]  # dE^t/do^t = y - one-hot
        gradients["V"] += np.outer(do, h[t])
        dh = do @ V  # dE^t/dh^t
        for k in range(t, max(0, t - 1 - reach), -1):
            da = dh * (1 - h[k] * h[k])  # dE^t/dh^t dh^t/dh^k, through the tanh of step k
            gradients["W"] += np.outer(da, h[k - 1])
            gradients["U"] += np.outer(da, x[k])
            dh = da @ W  # one factor more: dh^k/dh^{k-1}
    return gradients


def by_engine(weights, rest):
    """dE/dV, dE/dW, dE/dU by `backward`."""
    leaves = {name: tg.tensor(w, requires_grad=True) for name, w in weights.items()}
    error(**leaves, **rest).backward()
    return {name: leaf.grad.numpy() for name, leaf in leaves.items()}


def by_complex_step(weights, rest):
    """dE/dV, dE/dW, dE/dU by running `error` on complex numbers, one entry after another."""
    return {
        name: complex_step(
            lambda w, name=name: error(**{**weights, name: w}, **rest), weights[name]
        )
        for name in weights
    }


def difference(ours, true):
    """The largest difference of two gradients, relative to the largest entry."""
    return abs(ours - true).max() / abs(true).max()


def main(argv=None):
    p = argparse.ArgumentParser(
        "python -m demos.bptt_by_hand",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--seed", type=kit.seed, default=0, help="of the weights and the data (default: 0)"
    )
    weights, rest = example(np.random.default_rng(p.parse_args(argv).seed))
    ways = [by_hand(**weights, **rest), by_engine(weights, rest), by_complex_step(weights, rest)]
    broken = by_hand(**weights, **rest, reach=0)

    print(" " * 10 + "             by hand              engine        complex step      only k = t")
    for name, w in weights.items():
        for i, j in np.ndindex(w.shape):
            row = "".join(f"{way[name][i, j]:20.15f}" for way in ways)
            print(f"dE/d{name}[{i},{j}]{row}{broken[name][i, j]:16.9f}")
    worst = max(difference(a[n], b[n]) for a, b in combinations(ways, 2) for n in weights)
    print(
        f"largest relative difference of the three: {worst:.1e} (at most {TOLERANCE:.0e} allowed)"
    )
    missed = {n: difference(broken[n], ways[-1][n]) for n in "WU"}  # dE/dV has no such path
    caught = min(missed.values()) > TOLERANCE
    print(f"{'caught' if caught else 'NOT CAUGHT'}: without the path to earlier steps ", end="")
    print(" and ".join(f"dE/d{n} is off by {error:.1%}" for n, error in missed.items()))
    return int(not (worst <= TOLERANCE and caught))


if __name__ == "__main__":
    raise SystemExit(main())
