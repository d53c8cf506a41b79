"""Host memory in place of a device: it computes, counts, and notices what a device would not say.

That CuPy accepts and gives on it what it does on a device is the matter of ``test_simulator``,
whose rows are run there too.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import host
from .compared import close
from .tiers import Costs

WRITE = 'extern "C" __global__ void write(float* out, int at) { out[at] = 1; }'

SHIFT = """extern "C" __global__ void shift(float* x) {  // to the right, or to the left
    __shared__ float s[64];
    const int me = threadIdx.x;
    s[me] = x[me];
    BARRIER
    x[me] = s[(me + STEP + 64) % 64];
}"""


@pytest.fixture(scope="module", autouse=True)
def cupy(tier):
    if tier.name != "host":
        pytest.skip("of tier host")
    import cupy

    return cupy


def kernel(cupy, source, name):
    """A kernel of one block, called with its threads and arguments."""
    made = cupy.RawKernel(source, name)
    return lambda threads, *arguments, **more: made((1,), (threads,), arguments, **more)


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", "efd")
def test_memory_is_nan_until_something_is_written(cupy, dtype):
    for _ in range(2):  # what was freed, too
        x = cupy.empty((3, 5), dtype)
        assert np.isnan(x.get()).all()
        x.fill(1)
        del x


@pytest.mark.parametrize("at", [0, 4, -1, 5, -64, 68])
def test_a_write_outside_of_an_array_is_an_error(cupy, at):
    x, write = cupy.zeros(5, "f"), kernel(cupy, WRITE, "write")
    if 0 <= at < 5:
        write(1, x, np.int32(at))
        assert x.get().tolist() == [k == at for k in range(5)]
    else:
        with pytest.raises(RuntimeError, match="write has written outside of an array of 20 bytes"):
            write(1, x, np.int32(at))
        x + 1  # of which the next kernel is not accused


@pytest.mark.parametrize("text", ["x[at] *= 2", "x[at] = -y[at]", "x[at] = y[at]", "x[at] = 0"])
@pytest.mark.parametrize("dtype", "fdi")
def test_a_thread_past_the_end_is_noticed_whatever_it_reads_there(cupy, text, dtype):
    T = {"f": "float", "d": "double", "i": "int"}[dtype]
    source = f"""extern "C" __global__ void each({T}* x, const {T}* y) {{
        const int at = threadIdx.x; {text}; }}"""
    x, y, each = cupy.zeros(7, dtype), cupy.zeros(7, dtype), kernel(cupy, source, "each")
    each(7, x, y)
    with pytest.raises(RuntimeError, match="each has written outside of an array"):
        each(8, x, y)


def test_an_overrun_by_way_of_a_table_of_arrays_is_noticed_when_they_are_freed(cupy):
    source = """extern "C" __global__ void write_all(float** xs, int at) { xs[0][at] = 1; }"""
    x, write_all = cupy.zeros(5, "f"), kernel(cupy, source, "write_all")
    write_all(1, cupy.asarray(np.array([x.data.ptr])), np.int32(5))
    del x
    with pytest.raises(RuntimeError, match=r"a kernel before .* outside of an array of 20 bytes"):
        cupy.ones(3) + 1
    cupy.ones(3) + 1


def test_an_array_may_be_a_view_into_the_middle(cupy):
    write = kernel(cupy, WRITE, "write")
    x = cupy.zeros(10, "f")
    write(1, x[6:], np.int32(-6))
    with pytest.raises(RuntimeError, match="write has written outside of an array of 40 bytes"):
        write(1, x[6:], np.int32(4))


def test_what_is_read_past_the_end_shows(cupy):
    source = """extern "C" __global__ void add(double* y, const double* x, int n) {
        y[0] = 0; for (int k = 0; k < n; k++) y[0] += x[k]; }"""
    x, y, add = cupy.ones(7), cupy.zeros(1), kernel(cupy, source, "add")
    add(1, y, x, np.int32(7))
    assert float(y[0]) == 7
    add(1, y, x, np.int32(8))
    assert float(y[0]) > 1e100


@pytest.mark.parametrize("barrier", ["", "__syncthreads();"])
def test_an_address_that_is_no_arrays_is_an_error(cupy, barrier):
    source = f"""extern "C" __global__ void wild(float* out) {{
        out[threadIdx.x] = 2; {barrier} if (threadIdx.x == 3) out[1LL << 44] = 1; }}"""
    x, wild = cupy.zeros(8, "f"), kernel(cupy, source, "wild")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="wild has read or written at an address"):
            wild(8, x)
    assert (x.get() == 2).sum() >= 4  # of the threads before it
    assert float((x + 1).max()) == 3


def test_a_write_past_the_shared_memory_is_an_error(cupy):
    source = """extern "C" __global__ void past(float* out) {
        extern __shared__ float s[]; s[threadIdx.x] = 1; out[threadIdx.x] = s[threadIdx.x]; }"""
    x, past = cupy.zeros(8, "f"), kernel(cupy, source, "past")
    past(8, x, shared_mem=32)
    with pytest.raises(RuntimeError, match="past has written past its shared memory"):
        past(8, x, shared_mem=28)
    with pytest.raises(RuntimeError, match="more than 49152"):
        past(8, x, shared_mem=49153)


@pytest.mark.parametrize("shared", ["extern __shared__ float s[]", "__shared__ float s[8]"])
def test_shared_memory_that_is_not_written_is_nan(cupy, shared):
    source = f"""extern "C" __global__ void early(float* out) {{
        {shared}; out[threadIdx.x] = s[threadIdx.x]; s[threadIdx.x] = 1; }}"""
    x, early = cupy.zeros(8, "f"), kernel(cupy, source, "early")
    for _ in range(2):
        early(8, x, shared_mem=32)
        assert np.isnan(x.get()).all()


# ---- threads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("step", [1, -1])
def test_a_missing_barrier_shows_under_one_of_the_orders(cupy, step, reverse):
    """A thread that reads what a later one writes is too early; there is always such an order."""
    source = SHIFT.replace("STEP", str(step))
    numbers = np.arange(64, dtype="f")
    with host.threads(reverse):
        x, y = cupy.asarray(numbers), cupy.asarray(numbers)
        kernel(cupy, source.replace("BARRIER", "__syncthreads();"), "shift")(64, x)
        kernel(cupy, source.replace("BARRIER", ""), "shift")(64, y)
    assert (x.get() == np.roll(numbers, -step)).all()
    inner = slice(1, -1)  # at the ends it goes round
    right = (y.get()[inner] == np.roll(numbers, -step)[inner]).all()
    assert right == ((step == -1) != reverse)


def test_a_barrier_that_some_threads_never_reach_is_an_error(cupy):
    source = """extern "C" __global__ void split(float* x) {
        if (threadIdx.x == 3) return; __syncthreads(); x[threadIdx.x] = 1; }"""
    with pytest.raises(RuntimeError, match="split has threads at a barrier when others have ended"):
        kernel(cupy, source, "split")(8, cupy.zeros(8, "f"))


def test_threads_keep_their_own_variables_across_barriers(cupy):
    source = """extern "C" __global__ void total(double* x, int n) {
        __shared__ double s[1024];
        const int me = threadIdx.x;
        s[me] = x[me];
        for (int step = 1; step < n; step *= 2) {
            __syncthreads();
            const double mine = me >= step ? s[me - step] : 0;
            __syncthreads();
            s[me] += mine;
        }
        x[me] = s[me];
    }"""
    for n in (1, 2, 63, 1024):
        x = np.random.default_rng(n).standard_normal(n)
        y = cupy.asarray(x)
        kernel(cupy, source, "total")(n, y, np.int32(n))
        close(y.get(), np.cumsum(x))


@pytest.mark.parametrize("threads", [1025, (32, 33), (1, 1, 1025)])
def test_a_block_has_at_most_1024_threads(cupy, threads):
    block = threads if isinstance(threads, tuple) else (threads,)
    with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_VALUE: write"):
        cupy.RawKernel(WRITE, "write")((1,), block, (cupy.zeros(1, "f"), np.int32(0)))


def test_every_thread_of_every_block_runs_once(cupy):
    source = """extern "C" __global__ void visit(int* x) {
        int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        int me = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
        atomicAdd(&x[block * blockDim.x * blockDim.y * blockDim.z + me], 1); }"""
    x = cupy.zeros(2 * 3 * 4 * 5 * 6 * 7, "i")
    cupy.RawKernel(source, "visit")((2, 3, 4), (5, 6, 7), (x,))
    assert (x.get() == 1).all()


# ---- counters -----------------------------------------------------------------------------------

COSTS = {
    "A + 1": Costs(launches=1),
    "A @ A": Costs(products=1),
    "A.T @ A": Costs(products=1),
    "A @ A[0]": Costs(products=1),
    "cupy.asarray(H)": Costs(to_device=1),
    "A.set(H)": Costs(to_device=1),
    "A.get()": Costs(to_host=1, syncs=1),
    "A.data.copy_to_host(H.ctypes.data, 64)": Costs(to_host=1, syncs=1),
    "float(A[0, 0])": Costs(to_host=1, syncs=1),
    "cupy.cuda.Device().synchronize()": Costs(syncs=1),
    "A.T.copy()": Costs(launches=1),
    "cupy.zeros(3)": Costs(),
    "cupy.argsort(A[0])": Costs(launches=2),  # a copy of it, and Thrust's
    "A[1:], A.T, A.reshape(-1)": Costs(),
    "A[A > 0]": Costs(launches=3, to_host=1, syncs=1),
    "A[H > 0]": Costs(launches=2, to_host=1, syncs=1, to_device=1),
}


@pytest.mark.parametrize("call", COSTS)
def test_what_a_call_costs(cupy, tier, call):
    H = np.ones((4, 4), "f")
    names = {"cupy": cupy, "H": H, "A": cupy.asarray(H)}
    eval(call, names)  # what CuPy makes at first use
    with tier.counting() as costs:
        eval(call, names)
    assert costs == COSTS[call]


def test_kernels_are_counted_by_name(cupy):
    before = host.launched().get("write", 0)
    write = kernel(cupy, WRITE, "write")
    for _ in range(3):
        write(1, cupy.zeros(1, "f"), np.int32(0))
    assert host.launched()["write"] == before + 3


# ---- numbers ------------------------------------------------------------------------------------


@given(
    m=st.integers(0, 4),
    k=st.integers(0, 4),
    n=st.integers(1, 4),
    batch=st.lists(st.integers(1, 3), max_size=2),
    dtype=st.sampled_from("efd"),
    transposed=st.tuples(st.booleans(), st.booleans()),
)
def test_products_are_those_of_numpy(cupy, m, k, n, batch, dtype, transposed):
    rng = np.random.default_rng(0)
    shapes = [(*batch, m, k), (*batch, k, n)]
    a, b = (rng.integers(-3, 4, s[:-2] + s[:-3:-1] if t else s).astype(dtype)
            for s, t in zip(shapes, transposed, strict=True))  # fmt: skip
    x, y = cupy.asarray(a), cupy.asarray(b)
    if transposed[0]:
        a, x = a.swapaxes(-1, -2), x.swapaxes(-1, -2)
    if transposed[1]:
        b, y = b.swapaxes(-1, -2), y.swapaxes(-1, -2)
    got, expected = (x @ y).get(), a @ b
    assert got.dtype == expected.dtype and (got == expected).all()  # integers, so exactly


def test_every_float16_is_read_and_rounded_as_numpy_does(cupy):
    halves = np.arange(65536).astype(np.uint16).view(np.float16)
    wide = cupy.asarray(halves).astype("f").get()
    assert np.array_equal(wide, halves.astype("f"), equal_nan=True)
    halves = halves[np.isfinite(halves)].astype("f")
    between = np.concatenate([halves[1:] / 2 + halves[:-1] / 2, halves * np.float32(1.0003)])
    with np.errstate(over="ignore"):
        expected = between.astype(np.float16)
    assert np.array_equal(cupy.asarray(between).astype("e").get(), expected)


def test_atomic_updates_all_arrive(cupy):
    source = """extern "C" __global__ void gather(float* sum, int* most, const int* x) {
        atomicAdd(sum, (float)x[threadIdx.x]); atomicMax(most, x[threadIdx.x]); }"""
    x = np.random.default_rng(0).integers(-9, 99, 256).astype("i")
    total, most = cupy.zeros(1, "f"), cupy.zeros(1, "i")
    kernel(cupy, source, "gather")(256, total, most, cupy.asarray(x))
    assert (float(total[0]), int(most[0])) == (x.sum(), x.max())


# ---- nothing passes by accident -----------------------------------------------------------------


def test_what_has_no_double_is_an_error(cupy):
    with pytest.raises(NotImplementedError, match="cuBLAS's strsm has no double"):
        host.libraries.cublas.strsm()
    with pytest.raises(Exception, match=r"curand|nvJitLink|Insufficient"):
        cupy.random.default_rng(0).random(3)
    with pytest.raises(RuntimeError, match="Insufficient"):
        cupy.cuda.runtime.malloc(1)  # Python's own way round the tables
    with pytest.raises(NotImplementedError, match="a template as a kernel"):
        cupy.RawModule(code="template <class T> __global__ void f(T* x) {}",
                       name_expressions=["f<int>"]).get_function("f<int>")  # fmt: skip


def test_the_compilers_error_is_told_first(cupy):
    source = 'extern "C" __global__ void bad(float* x) { x[0] = undefined(1); }'
    with pytest.raises(RuntimeError) as caught:
        kernel(cupy, source, "bad")(1, cupy.zeros(1, "f"))
    assert "undefined" in str(caught.value).split("The source:")[0]


def test_a_function_that_cupy_lacks_is_named():
    with pytest.raises(KeyError, match="malloc"):
        host._runtime.install({}, {}, None, None)
