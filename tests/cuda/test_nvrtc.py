"""Tier 4: NVRTC compiles every kernel for three architectures, CuPy's and ours.  Runs last."""

import gc
from importlib import import_module
from pkgutil import iter_modules
from uuid import uuid4

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import cuda

from ..required import skip
from .host import compiled, nvrtc
from .test_optim import SETTINGS, trained

MOST_MEMORIES = 3
"""Kernels of an LSTM's gates are made for each number of memories: up to a node's children here."""

REFUSED = {  # and g++ accepts the first three
    "INFINITY": "out[0] = INFINITY;",
    "a function of C++'s library": "out[0] = std::tgamma(out[1]);",
    "a variable of C's library": "out[0] = signgam;",
    "a name that nobody has": "out[0] = undefined(out[1]);",
    "half a line": "out[0] = out[1] +",
    "a host array": "out[0] = host[0];",
    "too much shared memory": "__shared__ float s[99999]; s[threadIdx.x] = out[1]; out[0] = s[0];",
}


@pytest.fixture(scope="module")
def here(tier):
    """Skip what has no sources to compile, or no compiler."""
    if tier.name != "host":
        pytest.skip("the sources are those that tier host has met")
    if reason := nvrtc.missing():
        skip("cupy", reason)


@pytest.fixture(scope="module")
def answers(here):
    """What NVRTC refuses of all that has been launched in this run, and of all of ours."""
    for kernel in ours():
        for T in cuda.TYPES.values():
            cuda.compiled(kernel.name, kernel.parameters, kernel.text, T).compile()
    for kind, chosen in SETTINGS.values():  # these are made for the dtypes that they meet
        for dtype in (np.float32, np.float64):
            weights, _ = trained("cuda", kind, chosen, dtype)
            tg.optim.clip_grad_norm_(weights, 1.0)
    return nvrtc.refused(compiled.SOURCES)


def ours():
    """Every kernel of the package, those that a function makes among them."""
    for module in iter_modules(tg.__path__, "tinygrad_rnn."):
        if module.name.startswith("tinygrad_rnn.cuda"):
            import_module(module.name)
    for N in range(MOST_MEMORIES + 1):
        cuda.lstm_gates_kernels(N)
    return [x for x in gc.get_objects() if isinstance(x, cuda.Kernel)]


def of(body, before=""):
    """The source of a kernel with this body."""
    return f'{before}extern "C" __global__ void planted(float* out) {{ {body} }}'


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
def test_every_kernel_compiles(answers, architecture):
    assert "\n\n".join(answers[architecture].values()) == ""


def test_what_is_wrong_is_refused_for_every_architecture(here):
    options = ("--std=c++17",)
    sources = {name: (of(body), options) for name, body in REFUSED.items()}
    sources["good"] = of("out[0] = expf(out[1]);"), options
    for answers in nvrtc.refused(sources).values():
        assert set(answers) == set(REFUSED)


def test_what_is_compiled_together_is_refused_by_itself(here):
    """With headers of CuPy's, as its kernels are: nobody is helped or hurt by his neighbours."""
    import cupy

    (cupy.ones(2) + 1).sum()
    ((_, options), *_) = compiled.SOURCES.values()
    headers = "#include <cupy/carray.cuh>\n// NEW\n"
    good = {
        "a type": of("out[0] = Mine(1.5);", headers + "typedef int Mine;\n"),
        "another of that name": of("out[0] = Mine(1.5);", headers + "typedef float Mine;\n"),
        "a macro": of("out[0] = TWICE(1);", headers + "#define TWICE(x) 2 * x\n"),
        "the same macro": of("out[0] = TWICE(1);", headers + "#define TWICE(x) (x + x)\n"),
    }
    wrong = {
        "a neighbour's type": of("out[0] = Mine(1);", headers),
        "a neighbour's macro": of("out[0] = TWICE(1);", headers),
        "half a line": of("out[0] = out[1] +", headers),
    }
    for name, text in [*wrong.items(), ("nothing", good["a type"])]:
        new = str(uuid4())  # so that none is remembered
        sources = {key: (x.replace("NEW", new), options) for key, x in {**good, name: text}.items()}
        assert set(nvrtc.refused_for("sm_80", sources)) == {name} & set(wrong)


def test_neither_compiler_refuses_all_that_the_other_does(here, monkeypatch):
    """Which is why every kernel is compiled by both."""
    monkeypatch.setattr(compiled, "SOURCES", {})
    for name in list(REFUSED)[:3]:
        compiled.compile(of(REFUSED[name]), (), None, None)
    for name in list(REFUSED)[3:6]:
        with pytest.raises(RuntimeError, match=r"g\+\+ refuses"):
            compiled.compile(of(REFUSED[name]), (), None, None)
