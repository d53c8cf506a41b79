"""Numerical derivatives of a scalar function of arrays, along one direction at a time.

They see values only, never a VJP.  The complex step is exact to rounding where the function is
analytic; central differences of fourth order are good to about 1e-10 everywhere else, and notice
kinks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = list[np.ndarray]
Scalar = Callable[[Arrays], Any]


def complex_step(s: Scalar, xs: Arrays, i: int, v: np.ndarray, h: float = 1e-30) -> float | None:
    """``Im s(x + i h v) / h`` (Squire and Trapp 1998); None if the value that comes back is real.

    No difference is taken, so h can be far below rounding and nothing cancels.
    """
    y = np.asarray(s([*xs[:i], xs[i] + 1j * h * v, *xs[i + 1 :]]))
    return float(y.imag) / h if np.iscomplexobj(y) else None


def central_difference(
    s: Scalar, xs: Arrays, i: int, v: np.ndarray, h: float, magnitude: float
) -> tuple[float, float, float]:
    """The slope along ``v`` from five values, ``(8 (f1 - f_1) - (f2 - f_2)) / 12h``, error O(h^4).

    With it come how much rounding may move it, if the values are computed from numbers of this
    ``magnitude``, and derivatives of higher order, where they are large; and how far the slopes on
    the left and on the right are apart beyond what curvature explains: curvature makes one-sided
    slopes differ in proportion to the step, a kink does not.
    """
    f = {k: float(s([*xs[:i], xs[i] + k * h * v, *xs[i + 1 :]])) for k in (-2, -1, 0, 1, 2)}
    slope = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
    noise = 20 * np.finfo(float).eps * max(magnitude, *map(abs, f.values())) / h
    near = (f[1] - 2 * f[0] + f[-1]) / h
    far = (f[2] - 2 * f[0] + f[-2]) / (2 * h)
    apart = abs(far - 2 * near)
    bend = abs(slope - (f[1] - f[-1]) / (2 * h))  # what the third derivative does to two values
    return slope, noise + 1e-3 * bend, apart if apart > noise else 0.0
