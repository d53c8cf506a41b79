"""Numerical derivatives of a scalar function of arrays, along one direction at a time.

They see values only, never a VJP.  The complex step is exact to rounding where the function is
analytic; central differences of sixth order are good to about 1e-10 everywhere else, and notice
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
    """The slope along ``v`` from six values, with an error O(h^6):

        (45 (f1 - f_1) - 9 (f2 - f_2) + (f3 - f_3)) / 60h

    With it come how much it may be off, by rounding, if the values are computed from numbers of
    this ``magnitude``, and by derivatives of higher order, where they are large; and how far the
    slopes on the left and on the right are apart beyond what curvature explains: curvature makes
    one-sided slopes differ in proportion to the step, and to its third power, a kink does not.
    """
    f = {k: float(s([*xs[:i], xs[i] + k * h * v, *xs[i + 1 :]])) for k in range(-3, 4)}
    slope = (45 * (f[1] - f[-1]) - 9 * (f[2] - f[-2]) + f[3] - f[-3]) / (60 * h)
    noise = 20 * np.finfo(float).eps * max(magnitude, *map(abs, f.values())) / h
    near, far, farther = ((f[k] - 2 * f[0] + f[-k]) / (k * h) for k in (1, 2, 3))
    apart = abs(5 * near - 4 * far + farther) / 2  # the second and fourth derivatives cancel
    bend = abs(slope - (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h))  # what four values miss
    return slope, noise + 1e-2 * bend, apart if apart > 3 * noise else 0.0
