"""Small programs as people write them with this package, and right; ``mistakes`` spoils them.

Each takes a device, and gives arrays or Tensors of it, or what it has read from them.
"""

import io

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.backend import backend_for, backend_of

RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((5, 4)).astype("f")
TABLE = RNG.standard_normal((6, 3)).astype("f")
IDS = np.array([3, 0, 3, 5, 1])
BIAS = RNG.standard_normal(4).astype("f")
STATES = RNG.standard_normal((5, 3)).astype("f")
BATCHES = [(RNG.standard_normal((5, 3)).astype("f"), RNG.integers(4, size=5)) for _ in range(4)]
WORDS = ["a", "cat", "sat", "down"]


def operation(device):
    """An operation of one's own: a softmax with its VJP."""

    def vjp(g, x, y):
        inner = np.sum(g * y, axis=-1, keepdims=True)
        return y * (g - inner)

    @tg.op(x=vjp)
    def soft(x):
        top = np.max(x, axis=-1, keepdims=True)
        e = np.exp(x - top)
        total = np.sum(e, axis=-1, keepdims=True)
        return e / total

    x = tg.tensor(SCORES, requires_grad=True, device=device)
    y = soft(x)
    y.backward(tg.tensor(SCORES[::-1].copy(), device=device))
    return [y, x.grad]


def embedding(device):
    """Rows of a table by ids, and what their cotangents add up to."""
    backend = backend_for(device)
    table, ids = backend.asarray(TABLE), backend.asarray(IDS)
    rows = table[ids]
    gradient = backend.zeros(table.shape, table.dtype)
    backend.scatter_add(gradient, ids, rows)
    return [rows, gradient]


def unknown_words(device):
    """Rows of a table, where ids that it does not have mean its first row."""
    backend = backend_for(device)
    table, raw = backend.asarray(TABLE), IDS + 2
    known = np.where(raw < len(TABLE), raw, 0)
    rows = table[backend.asarray(known)]
    return [rows]


def last_seen(device):
    """The last state at which each word stood: a sentence may have a word twice."""
    backend = backend_for(device)
    states = backend.asarray(STATES)
    memory = backend.zeros((6, 3), states.dtype)
    words, first_from_behind = np.unique(IDS[::-1], return_index=True)
    at = len(IDS) - 1 - first_from_behind
    memory[backend.asarray(words)] = states[backend.asarray(at)]
    return [memory]


def decoding(device):
    """The three best scores of each row, and where they stand."""
    scores = backend_for(device).asarray(SCORES)
    order = np.argsort(-scores, axis=-1)[:, :3]
    best = np.take_along_axis(scores, order, -1)
    clipped = np.clip(best, None, 1.0)
    return [order, best, clipped]


def greedy(device):
    """The words of the best scores, which are read on the host in one go."""
    scores = backend_for(device).asarray(SCORES)
    best = backend_of(scores).to_host(np.argmax(scores, axis=-1))
    return [[WORDS[i] for i in best]]


def running_best(device):
    """The first score of a row, kept while all are shifted in place."""
    scores = backend_for(device).asarray(SCORES[0].copy())
    before = scores[0] * 1.0
    scores += 1.0
    return [before + 0.0, scores]


def windows(device):
    """All windows of two steps, as a convolution reads them."""
    x = backend_for(device).asarray(SCORES)
    pairs = np.stack([x[:-1], x[1:]], axis=1)
    return [pairs]


def recurrence(device):
    """Five steps of h = tanh(x + h W), with states of all steps in one array."""
    backend = backend_for(device)
    x, W = backend.asarray(SCORES), backend.asarray(np.outer(BIAS, BIAS))
    h = backend.zeros((4,), x.dtype)
    states = []
    for t in range(len(x)):
        h = np.tanh(x[t] + h @ W)
        states.append(h)
    return [np.stack(states)]


def long_sequence(device):
    """The states of many steps in one array, each written where it stands."""
    backend = backend_for(device)
    x = backend.asarray(SCORES[0])
    states = backend.zeros((12, 4), x.dtype)
    for t in range(12):
        states[t] = x
    return [states]


def counting_words(device):
    """How often each word comes; one-hot rows are summed, since ids are few."""
    backend = backend_for(device)
    ids = backend.asarray(IDS)
    counts = np.sum(ids[:, None] == backend.asarray(np.arange(6)), axis=0)
    return [counts]


def saved(device):
    """An array as a file."""
    x = backend_for(device).asarray(SCORES)
    file = io.BytesIO()
    np.save(file, backend_of(x).to_host(x))
    return [np.frombuffer(file.getvalue(), np.uint8)]


def norm(device):
    """The length of all scores, on the device."""
    x = backend_for(device).asarray(SCORES)
    total = np.sum(x * x)
    length = np.sqrt(total)
    return [length]


def training(device):
    """A few steps of training; the losses are read when all is done."""
    tg.manual_seed(0)
    model = nn.Linear(3, 4).to(device)
    bias = tg.tensor(BIAS, device=device)
    optimizer = optim.SGD(model.named_parameters(), lr=0.1)
    losses = []
    for x, y in BATCHES:
        scores = model(tg.tensor(x, device=device)) + bias
        loss = tg.cross_entropy(scores, y)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.named_parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    return [tg.stack(losses), *model.parameters()]


# ---- with kernels of one's own -----------------------------------------------------------------


def launched(text, name, grid, block, arguments, shared=0):
    """Run the kernel of this CUDA C++."""
    import cupy

    cupy.RawKernel(text, name)((grid,), (block,), arguments, shared_mem=shared)


def row_sums(device):
    """The sum of each row, by a block of threads: each adds up a part, then halves meet."""
    backend = backend_for(device)
    x = np.arange(600.0).reshape(200, 3).T
    if device == "cpu":
        return [x.sum(axis=-1)]
    x = backend.asarray(x)
    y = backend.cupy.empty(3)
    text = r"""
    extern "C" __global__ void row_sums(const double* x, double* y, int n) {
        extern __shared__ double part[];
        const double* row = x + blockIdx.x * n;
        double sum = 0;
        for (int k = threadIdx.x; k < n; k += blockDim.x) sum += row[k];
        part[threadIdx.x] = sum;
        __syncthreads();
        for (int half = blockDim.x / 2; half; half /= 2) {
            if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
            __syncthreads();  // of this half
        }
        if (threadIdx.x == 0) y[blockIdx.x] = part[0];
    }"""
    packed = x.copy()
    launched(text, "row_sums", 3, 64, (packed, y, np.int32(200)), shared=64 * 8)
    return [y]


def gelu(device):
    """An approximation of GELU, entry by entry; a thread for each, and some to spare."""
    backend = backend_for(device)
    x = np.linspace(-3, 3, 508)
    if device == "cpu":
        return [0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))]
    x = backend.asarray(x)
    y = backend.cupy.empty(508)
    text = r"""
    extern "C" __global__ void gelu(const double* x, double* y, int size) {
        int at = blockIdx.x * blockDim.x + threadIdx.x;
        if (at >= size) return;
        double a = x[at];
        y[at] = 0.5 * a * (1 + tanh(0.7978845608028654 * (a + 0.044715 * a * a * a)));
    }"""
    launched(text, "gelu", 2, 256, (x, y, np.int32(508)))
    return [y]


def shifted(device):
    """Each entry takes the place of the one before it: threads must have read before one writes."""
    backend = backend_for(device)
    x = np.arange(100.0)
    if device == "cpu":
        return [np.roll(x, -1)]
    x = backend.asarray(x)
    text = r"""
    extern "C" __global__ void shifted(double* x, int n) {
        double next = x[(threadIdx.x + 1) % n];
        __syncthreads();
        x[threadIdx.x] = next;
    }"""
    launched(text, "shifted", 1, 100, (x, np.int32(100)))
    return [x]


def floored(device):
    """Scores, but for those of impossible words: these are -inf."""
    backend = backend_for(device)
    x = SCORES.ravel()
    if device == "cpu":
        return [np.where(x > 0, 2 * x, -np.inf)]
    x = backend.asarray(x)
    y = backend.cupy.empty(20, "f")
    text = r"""
    extern "C" __global__ void floored(const float* x, float* y, float scale) {
        const float infinity = __int_as_float(0x7f800000);
        y[threadIdx.x] = -infinity;
        if (x[threadIdx.x] > 0) y[threadIdx.x] = scale * x[threadIdx.x];
    }"""
    launched(text, "floored", 1, 20, (x, y, np.float32(2)))
    return [y]


def scattered(device):
    """Entries strewn over an array, no two in one place."""
    backend, n = backend_for(device), 200_000
    x = np.arange(n).astype("f")
    if device == "cpu":
        y = np.empty_like(x)
        y[np.arange(n) * 40_503 % n] = x
        return [y]
    x, y = backend.asarray(x), backend.cupy.empty(n, "f")
    text = r"""
    extern "C" __global__ void scattered(const float* x, float* y, unsigned size) {
        unsigned long long at = blockIdx.x * blockDim.x + threadIdx.x;
        if (at < size) y[at * 40503u % size] = x[at];
    }"""
    launched(text, "scattered", -(-n // 256), 256, (x, y, np.uint32(n)))
    return [y]
