"""Calls of CuPy as one writes them, on the arrays of ``arrays``; ``test_simulator`` makes them.

SAME        give on a device what they give on NumPy
DTYPES      the same, and so are the dtypes that come out
WRITES      change A, as on NumPy
REJECTED    are refused by CuPy, though NumPy makes them
WAITS       make the host wait for the device
LET_PASS    are made by CuPy, and go wrong in silence, or cost what nobody sees
"""

import copy
import io

import numpy as np

SAME = """
A + B                            A - 2.0                          2 * A
A / V                            A ** 2                           A // 0.5
A % 0.7                          -A                               abs(A)
A > 0                            A == B                           A != 0.0
A @ B.T                          A.T @ B                          A @ V
V @ A.T                          V @ V                            S @ S.transpose(0, 2, 1)
S @ B.T                          A @ S.transpose(0, 2, 1)         S @ V
A[:, ::2] @ B[:, ::2].T          A[::-1] @ B.T                    S[:, 0] @ A.T
A[:0] @ B.T                      A[:, :0] @ B.T[:0]               D @ A.T
A.T[:, :2] @ A[:2]               np.matmul(A, B.T, out=xp.empty((3, 3), "f"))
np.matmul(A, B.T, out=xp.empty((3, 5), "f")[:, :3])
np.matmul(A, B.T, out=xp.empty((3, 3), "f").T)                    np.dot(A, B.T)
np.tensordot(S, S, axes=([0, 1], [0, 1]))
np.tensordot(A, B, axes=([0], [0]))                               np.einsum("ij,kj->ik", A, B)
np.einsum("bi,bj->bij", A, B)    np.add(A, B, out=A)              np.multiply(A, 2, out=A)
np.tanh(A, out=A)                np.subtract(1, A, out=A)         np.add(A, B, dtype="d")
np.exp(A.T)                      np.tanh(A[:, 1:3])               np.logaddexp(A, B)
np.expm1(A)                      np.log1p(abs(A))                 np.sqrt(abs(A))
np.maximum(A, 0)                 np.minimum(A, B)                 np.sign(A)
np.isfinite(A)                   np.copysign(A, B)                np.where(M, A, 0.0)
np.where(M, A, np.float64(0))    np.clip(A, -1, 1)                np.clip(A, 0, None)
A.clip(0, 1)                     A.clip(None, 0.5)                np.nan_to_num(A)
np.round(A)                      A * np.float32(3)                A * np.float64(2)
np.float64(2) * A                A * X                            A * D
I * 1.5                          I / (I + 1)                      V[:3] + I
F * A                            F + 100.0                        I + True
M + M                            M & (A > 0.5)                    ~M
M | M                            I // 2                           np.floor(A)
np.power(A, 3)                   np.square(A)                     np.isnan(A)
np.sin(A)                        np.cos(A)                        np.log(abs(A))
np.negative(A)                   A.sum()                          A.sum(axis=0)
np.sum(S, axis=(0, 2), keepdims=True)                             np.sum(A, dtype="d")
A.sum(axis=0, out=xp.empty(4, "f"))                               F.sum(axis=0)
M.sum()                          A[:0].sum(axis=0)                np.add.reduce(A, axis=0)
np.mean(A, axis=1)               A.mean()                         I.mean()
A.var(axis=0)                    A.std(axis=1, ddof=1)            np.max(A, axis=1)
A.min()                          A.argmax(axis=1)                 np.argmax(A)
np.argmin(A, axis=0)             M.any()                          np.all(M, axis=1)
np.prod(A, axis=0)               np.cumsum(A, axis=1)             np.cumsum(V)
np.cumprod(A, axis=1)            np.linalg.norm(A)                np.count_nonzero(M)
np.vdot(A, B)                    np.trace(A[:, :3])               np.diff(A)
np.array_equal(A, B)             np.concatenate([A, B])           np.concatenate([A, B, A], axis=1)
np.concatenate([A] * 8)          np.concatenate([A] * 9)          np.stack([V] * 10)
np.concatenate([A, D])           np.concatenate([A, A[:0]])       np.concatenate([A.T, A.T])
np.stack([A, B], axis=1)         np.split(A, 2, axis=1)[1]        np.array_split(A, 2)[0]
np.pad(A, ((1, 0), (0, 2)))      np.tile(A, (1, 2))               np.repeat(A, 2, axis=0)
np.flip(A, 0)                    np.roll(A, 1, axis=1)            np.broadcast_to(V, (3, 4))
np.moveaxis(S, 0, -1)            np.swapaxes(S, 0, 1)             np.squeeze(A[None], axis=0)
np.expand_dims(A, 1)             np.tril(A)                       np.outer(V, V)
np.transpose(S, (2, 0, 1))       A.reshape(2, 6)                  A.T.reshape(2, 6)
np.reshape(A, (4, 3))            A.ravel()                        A.T.ravel()
A.flatten()                      A.T.copy()                       np.copy(A.T)
A.astype("d")                    A.T.astype("d")                  A.astype("f", copy=False)
A.astype("i")                    A.real                           A.T
A[1]                             A[1, 2]                          A[-1]
A[1:, ::2]                       A[None, ..., ::-1]               A[..., 0]
A[I]                             A[I - 3]                         A[:, I]
A[I, :2]                         A[0, I]                          A[..., I]
A[K % 3]                         A[I, I]                          S[:, I, I]
S[I % 2, :, I]                   A[I[:, None], I]                 A[I[:0]]
A[I.astype("i")]                 A.T[I]                           A[I[0]]
A[np.int64(1)]                   np.take(A, I, axis=0)            A.take(I, axis=1)
np.take_along_axis(A, K, 1)      np.searchsorted(xp.arange(5), I)  np.sort(A, axis=1)
np.argsort(A, axis=1)            np.argsort(I, kind="stable")     np.argsort(-A, axis=0)
np.zeros_like(A.T)               np.ones_like(A)                  np.full_like(A, 2.0)
xp.zeros((3, 4))                 xp.ones((2, 2), "f")             xp.full((2, 2), 0.5)
xp.arange(3)                     xp.arange(1, 7, 2)               xp.linspace(0, 1, 5)
xp.eye(3)                        xp.asarray(A)                    xp.array(A)
xp.asarray(1.5)                  xp.asarray(H)                    xp.asarray(H.T)
xp.asarray([1.0, 2.0])           xp.asarray(H[:, ::2])            xp.asarray(H[:0])
xp.asarray(np.float32(2))        copy.deepcopy(A)                 np.result_type(A, 1.0)
np.may_share_memory(A, A[1:])    np.iscomplexobj(A)               np.shape(A)
np.ndim(A)                       len(A)                           A.size
A.nbytes                         A.base is None                   A[1:].base is A
A.T.flags.owndata                hasattr(A, "setflags")           hasattr(A, "__index__")
hasattr(A.flags, "writeable")    A.T.flags.c_contiguous           list(A)[1]
sum(V)                           divmod(I, 2)[1]                  A[1:].sum()
A.get()                          A.T.get()                        A[:, ::2].get()
A[:0].get()                      xp.asnumpy(A.T)                  np.allclose(A, B)
np.linalg.norm(A, axis=1)        np.meshgrid(V, V)[0]
"""

DTYPES = """
I + A.astype("e")[0, :3]         I.astype("i") + V[:3]            I.astype("u1") - 1
M + A                            M * 2.0                          I ** 2
np.sqrt(I)                       np.exp(M)                        np.sum(I.astype("i"))
np.mean(F)                       np.var(F)                        np.float32(2) * I
np.mean(M)
np.cumsum(I.astype("i"))         np.prod(M)                       np.where(M, F, A)
np.maximum(F, A)                 I.astype("i") // 2               np.log(I + 1)
"""

WRITES = """
A.sort()                         A.put(I, 1.0)                    A.partition(1)
np.fill_diagonal(A, 0.0)
A[1] = 0                         A[1] = 2.0                       A[:, 1] = 0
A[1, 2] = 3                      A[...] = B                       A[:] = V * 1
A[:, :2] = B[:, :2]              A[1:] = B[1:] * 1.0              A[:] = D
A[0] = B[1, 1]                   A[I] = B                         A[I] = 0
A[J] = 2.0                       A[I] = V                         A[:, I] = B[:, :3]
A[I, I] = V[:3]                  A[I] = D                         A[..., I] = B[:, :3]
A[I, :2] = B[:, :2]              A += B                           A *= 2
A[:, :2] *= 2.0                  A[I] += B                        A += V
A += D                           A -= A                           A /= 3
A.fill(0)                        A.fill(2)                        A[1:] += A[:-1]
np.copyto(A, B)                  np.copyto(A, 0.0)                np.copyto(A, V)
np.copyto(A, 0.0, where=M)       xp.put_along_axis(A, K[:, :1], 9, 1)
np.add.at(A, I, B)               np.add.at(A, J, B)               np.add.at(A, I, 1.0)
xp.add.at(A, (I, I), V[:3])      xp.add.at(A, (I, slice(0, 2)), B[:, :2])
np.add.at(A, I, V)               np.add.at(A, I, D)               np.maximum.at(A, J, B)
np.add.at(K, J, 1)               np.add.at(F, J, 1.0)             A.set(H)
v = A[1]; A += 1; A = v * 1
"""

REJECTED = """
xp.zeros(I[0])                   A.reshape(I[1] + 2, 6)           xp.full((I[0],), 1.0)
np.tile(A, I[0])                 np.expand_dims(A, I[1])          np.swapaxes(A, I[1], 1)
np.divide(A, B, where=True)
np.where([True] * 4, A, 0.0)
np.divide(A, B, where=M)         np.tanh(A, order="C")            np.add(A, H)
A + H                            H + A                            A + np.array(2.0)
np.multiply(H, A, out=H)         A @ H.T                          np.dot(A, H.T)
np.where(H > 0, A, 0.0)          np.concatenate([A, H])           np.stack([A, H])
np.copyto(A, H)                  np.copyto(H, A)                  A[:] = H
A[0] = [1, 2, 3, 4]              np.add(A, [1, 2, 3, 4])          A + [1, 2, 3, 4]
xp.exp([1.0, 2.0])               xp.exp(H)                        np.sum(A, initial=0.0)
A.sum(where=M)                   np.max(A, initial=0.0)           np.mean(A, where=M)
np.take(A, I, mode="clip")       np.argsort(A, stable=True)       np.sort(A, stable=True)
np.clip(A, min=0)                np.einsum("ij->j", A, out=V) xp.linalg.svd(A, hermitian=True)
xp.vecdot(A, A)                  xp.errstate(over="ignore")       xp.setflags
A.setflags(write=False)          A.resize(12)                     np.asarray(A)
np.array([V[0], V[1]])           np.ascontiguousarray(A)          np.float32(V[0])
H[I]                             H[:] = A                         [1, 2, 3][I[0]]
range(I[0])                      hash(A)                          round(V[0])
np.multiply.at(A, I, 2.0)        np.subtract.at(A, I, B)          np.add.at(A, (I, I), V[:3])
np.maximum.reduce(A)             np.lib.stride_tricks.as_strided(A, (2, 2), (16, 4))
A[5]                             A[I, I, I]                       I += A
A.reshape(5)                     A + S[:, :, :3]                  A @ B
np.concatenate([A, V])           xp.random.default_rng(0).choice(5)
xp.random.default_rng(0).normal(0, 1, 3)
xp.random.default_rng(0).permutation(5)
xp.random.default_rng(0).shuffle(A)                               np.linalg.multi_dot([A, B.T, A])
np.nanmax(A, initial=0.0)        np.std(A, mean=V)
np.full_like(A, 1.0, device="cpu")                                np.zeros_like(A, device="cpu")
xp.zeros(3, device="cpu")        np.testing.assert_array_equal(A, A)
np.add.at(A.astype("i2"), I, 1)  np.maximum.at(F, J, 1.0)         np.add.at(A.astype("F"), I, 1.0)
A[V]                             -M                               M - M
np.cumsum(A, where=M)
"""

WAITS = """
np.linspace(0, X, 3)             xp.arange(I[0])                  np.round(A, I[0])
np.delete(A, 1, axis=0)          np.nanmax(A)                     np.putmask(A, M, 0.0)
np.place(A, M, 0.0)
float(X)                         int(I[0])                        bool(M.any())
A[0, 0].item()                   A.tolist()                       f"{X}"
str(X)                           2 in I                           1 if A.sum() > 1 else 0
max(V)                           min(V)                           A[M]
A[M] = 0                         A[:I[0]]                         np.nonzero(M)
np.flatnonzero(M)                np.argwhere(M)                   np.unique(I)
np.bincount(I)                   np.where(M)                      np.histogram(A, bins=4)
np.repeat(A, I, axis=0)          np.compress(M[0], A, axis=1)     np.unravel_index(I, (2, 2))
np.lib.stride_tricks.sliding_window_view(A, 2, axis=1)            np.argpartition(A, 1, axis=1)
np.shares_memory(A, A[1:])       complex(X)
np.ones(3)[0:1].__setitem__(0, V[0])                              np.extract(M, A)
np.array_repr(A)                 np.savetxt(io.BytesIO(), A)       np.save(io.BytesIO(), A)
np.setdiff1d(I, J)               np.union1d(I, J)                 np.unique_values(I)
np.trim_zeros(V)                 np.setxor1d(I, J)                np.intersect1d(I, J)
"""

LET_PASS = """
np.cross(A[:, :3], B[:, :3])
A[np.array([0, 1])]              A[[0, 1]]                        np.take(A, [0], axis=0)
np.take(A, H[0, :1].astype(int), axis=0)                          A[I] = H
A[J] = B                         np.add.reduceat(A, I)                       A[I + 10]
A[I + 10] = 1.0                  A @= B.T                         A[np.array([1, 0])] = B[:2]
"""


LAID_OUT_OTHERWISE = {'np.einsum("ij,kj->ik", A, B)', "np.argsort(-A, axis=0)"}
"""What CuPy gives as a view that is not in rows without gaps, where the simulator has such rows."""


def rows(text):
    """The calls of a table: two spaces part them."""
    return [call.strip() for line in text.splitlines() for call in line.split("  ") if call.strip()]


def arrays(xp):
    """The arrays that a row may name, on the device of ``xp``, and ``H``, which is on the host."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: xp.asarray(rng.standard_normal(shape).astype("f"))  # noqa: E731
    A, B, S, V = draw(3, 4), draw(3, 4), draw(2, 3, 4), draw(4)
    K = xp.asarray(rng.permuted(np.tile(np.arange(4), (3, 1)), axis=1)[:, :2])
    return {
        "A": A,
        "B": B,
        "S": S,
        "V": V,
        "X": V[1:2].sum(),
        "D": B.astype("d"),
        "F": A.astype("e"),
        "I": xp.asarray(np.array([2, 0, 1])),
        "J": xp.asarray(np.array([0, 0, 2])),
        "K": K,
        "M": B > 0,
        "H": np.ones((3, 4), "f"),
        "xp": xp,
        "np": np,
        "copy": copy,
        "io": io,
    }
