"""NumPy doubles of cuBLAS and Thrust, which CuPy imports as Python modules.

Arguments are those of the C functions: addresses and leading dimensions of matrices stored column
by column.  ``calls`` counts; a function that CuPy wants and this file lacks is named by the error.
"""

import ctypes
from collections import Counter
from types import ModuleType

import numpy as np
from numpy.lib.stride_tricks import as_strided

calls: Counter[str] = Counter()
"""How often each function has been called."""

OF_CODE = {0: np.float32, 1: np.float64, 2: np.float16}  # cudaDataType


def array(address, count, dtype):
    """``count`` numbers at an address."""
    dtype = np.dtype(dtype)
    return np.frombuffer(
        (ctypes.c_char * (int(count) * dtype.itemsize)).from_address(address), dtype
    )


def matrix(address, transposed, rows, columns, leading, dtype):
    """The matrix rows x columns at an address: stored so, or as its transpose."""
    if transposed:
        return matrix(address, False, columns, rows, leading, dtype).T
    flat = array(address, leading * (columns - 1) + rows, dtype)
    return as_strided(flat, (rows, columns), (flat.itemsize, flat.itemsize * leading))


def number(address, dtype):
    """The number at an address, on the host."""
    return dtype(array(address, 1, dtype)[0])


def multiply(ta, tb, m, n, k, alpha, a, b, beta, c, dtype):
    """C = alpha op(A) op(B) + beta C in ``dtype``; each is (address, leading dimension, dtype)."""
    (a, lda, of_a), (b, ldb, of_b), (c, ldc, of_c) = a, b, c
    alpha, beta = number(alpha, dtype), number(beta, dtype)
    A = matrix(a, ta, m, k, lda, of_a).astype(dtype)
    B = matrix(b, tb, k, n, ldb, of_b).astype(dtype)
    C = matrix(c, False, m, n, ldc, of_c)
    product = alpha * (A @ B)
    C[...] = product if beta == 0 else product + beta * C  # C is not read if beta is 0


# ---- cuBLAS -------------------------------------------------------------------------------------

cublas = ModuleType("cupy_backends.cuda.libs.cublas")


def double(*names):
    """The decorator of a double of cuBLAS's functions of these names; their calls are counted."""

    def decorate(function):
        for name in names:

            def counted(*args, name=name):
                calls[name] += 1
                return function(name, *args)

            setattr(cublas, name, counted)
        return function

    return decorate


def real(name):
    """The dtype that the first letter of a name stands for."""
    return np.float32 if name[0] == "s" else np.float64


@double("sgemm", "dgemm")
def gemm(name, _, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    T = real(name)
    multiply(ta, tb, m, n, k, alpha, (a, lda, T), (b, ldb, T), beta, (c, ldc, T), T)


@double("sgemmEx", "gemmEx")
def gemm_ex(name, _, ta, tb, m, n, k, alpha, a, ca, lda, b, cb, ldb, beta, c, cc, ldc, *how):
    T = np.float64 if OF_CODE[cc] is np.float64 else np.float32
    a, b, c = (a, lda, OF_CODE[ca]), (b, ldb, OF_CODE[cb]), (c, ldc, OF_CODE[cc])
    multiply(ta, tb, m, n, k, alpha, a, b, beta, c, T)


@double("sgemmBatched", "dgemmBatched")
def gemm_batched(name, _, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, count):
    T = real(name)
    for x, y, z in zip(
        *(array(addresses, count, np.uintp) for addresses in (a, b, c)), strict=True
    ):
        x, y, z = (int(x), lda, T), (int(y), ldb, T), (int(z), ldc, T)
        multiply(ta, tb, m, n, k, alpha, x, y, beta, z, T)


@double("gemmStridedBatchedEx")
def gemm_strided_batched(name, _, ta, tb, m, n, k, alpha, *rest):
    a, ca, lda, step_a, b, cb, ldb, step_b, beta, c, cc, ldc, step_c, count, *_how = rest
    for _ in range(count):
        gemm_ex(name, _, ta, tb, m, n, k, alpha, a, ca, lda, b, cb, ldb, beta, c, cc, ldc)
        a += step_a * np.dtype(OF_CODE[ca]).itemsize
        b += step_b * np.dtype(OF_CODE[cb]).itemsize
        c += step_c * np.dtype(OF_CODE[cc]).itemsize


@double("sgeam", "dgeam")
def geam(name, _, ta, tb, m, n, alpha, a, lda, beta, b, ldb, c, ldc):
    """C = alpha op(A) + beta op(B); what has the factor 0 is not read."""
    T, total = real(name), 0
    for factor, x, transposed, leading in ((alpha, a, ta, lda), (beta, b, tb, ldb)):
        if number(factor, T):
            total = total + number(factor, T) * matrix(x, transposed, m, n, leading, T)
    matrix(c, False, m, n, ldc, T)[...] = total


cublas.create = lambda: 1
cublas.getPointerMode = lambda handle: 0
for name in "destroy setStream setMathMode setPointerMode".split():
    setattr(cublas, name, lambda *args: None)
for name, value in {
    "OP_N": 0,
    "OP_T": 1,
    "COMPUTE_32F": 68,
    "COMPUTE_32F_PEDANTIC": 69,
    "COMPUTE_64F": 70,
    "COMPUTE_64F_PEDANTIC": 71,
    "COMPUTE_32F_FAST_TF32": 77,
    "DEFAULT_MATH": 0,
    "TENSOR_OP_MATH": 1,
    "GEMM_DEFAULT": -1,
    "GEMM_DEFAULT_TENSOR_OP": 99,
    "POINTER_MODE_HOST": 0,
    "POINTER_MODE_DEVICE": 1,
}.items():
    setattr(cublas, f"CUBLAS_{name}", value)


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise NotImplementedError(f"cuBLAS's {name} has no double: write one in {__file__}")


cublas.__getattr__ = __getattr__


# ---- Thrust -------------------------------------------------------------------------------------


def sort(dtype, data, keys, shape):
    """The last axis in place."""
    calls["sort"] += 1
    array(data, np.prod(shape), dtype).reshape(shape).sort(axis=-1, kind="stable")


def argsort(dtype, order, data, keys, shape):
    """The order of the last axis."""
    calls["argsort"] += 1
    x = array(data, np.prod(shape), dtype).reshape(shape)
    array(order, x.size, np.intp).reshape(shape)[...] = np.argsort(x, axis=-1, kind="stable")


def lexsort(dtype, order, keys, k, n):
    """The order by k keys of n numbers, of which the last counts most."""
    calls["lexsort"] += 1
    array(order, n, np.intp)[...] = np.lexsort(array(keys, k * n, dtype).reshape(k, n))


SORTS = {"sort": sort, "argsort": argsort, "lexsort": lexsort}
