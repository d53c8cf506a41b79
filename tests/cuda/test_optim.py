"""Optimisers and clipping on the device: what they do on NumPy, in a kernel, without a wait."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import cuda_optim, nn, optim
from tinygrad_rnn.errors import DeviceError, NonFiniteError
from tinygrad_rnn.sparse import RowGradient

from .compared import close, is_on, on_host

SHAPES = [(3, 4), (5,), (), (0, 2)]
SETTINGS = {
    "SGD": (optim.SGD, {"lr": 0.1, "weight_decay": 0.01}),
    "momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "Nesterov": (optim.SGD, {"lr": 0.1, "momentum": 0.5, "nesterov": True}),
    "Adagrad": (optim.Adagrad, {"lr": 0.1, "weight_decay": 0.1}),
    "RMSprop": (optim.RMSprop, {"lr": 0.1, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    "Adam": (optim.Adam, {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    "AdamW": (optim.AdamW, {"lr": 0.1, "betas": (0.5, 0.999), "weight_decay": 0.2}),
}
MUTANTS = {
    "SGD without decay": ("SGD", "S(weight_decay) * w", "0"),
    "SGD uphill": ("SGD", "w -=", "w +="),
    "momentum that forgets": ("momentum", "S(momentum) * v + g", "g"),
    "momentum for Nesterov's": ("Nesterov", "nesterov ?", "0 ?"),
    "Adagrad of the last gradient": ("Adagrad", "s += g * g", "s = g * g"),
    "Adagrad without a root": ("Adagrad", "sqrt(s)", "s"),
    "RMSprop with too much of the new": ("RMSprop", "S(1 - alpha)", "1"),
    "RMSprop without eps": ("RMSprop", "+ S(eps)", ""),
    "Adam without its correction": ("Adam", "S(rate)", "S(lr)"),
    "Adam with b1 for b2": ("Adam", "S(b2) * v", "S(b1) * v"),
    "AdamW that decays its gradient": ("AdamW", "w -= S(lr * weight_decay) * w", "g += w"),
    "AdamW without v's correction": ("AdamW", "/ S(scale)", ""),
}


def parameters(device, dtype=np.float32, shapes=SHAPES):
    rng = np.random.default_rng(0)
    arrays = [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]
    return [tg.tensor(x, requires_grad=True, device=device) for x in arrays]


def give_gradients(ws, rng, scale=1.0):
    for i, w in enumerate(ws):
        g = np.asarray(scale * rng.standard_normal(w.shape[::-1])).astype(w.dtype).T
        w.grad = tg.tensor(g, device=w.device) if i != 1 or rng.random() < 0.8 else None


def trained(device, kind, chosen, dtype=np.float32, steps=3):
    """The parameters and the optimiser after a few steps."""
    ws, rng = parameters(device, dtype), np.random.default_rng(1)
    optimizer = kind(ws, **chosen)
    for _ in range(steps):
        give_gradients(ws, rng)
        optimizer.step()
    return ws, optimizer


def same_steps(setting, dtype=np.float32):
    """Raise unless parameters and memories come out the same on both devices."""
    (ws, optimizer), (expected, other) = (
        trained(device, *SETTINGS[setting], dtype) for device in ("cuda", "cpu")
    )
    for w, x in zip(ws, expected, strict=True):
        assert is_on("cuda", w)
        close(w, x)
    state, wanted = optimizer.state_dict(), other.state_dict()
    assert state.keys() == wanted.keys()
    for name, x in wanted.items():
        kind = dtype if x.dtype.kind == "f" else x.dtype  # for the decay of a float16 is rounded
        close(state[name].astype(kind), x.astype(kind))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_kernel_moves_as_its_formula_does(setting, dtype):
    same_steps(setting, dtype)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_kernel_that_is_spoilt_is_found(mutant, tier, monkeypatch):
    setting, old, new = MUTANTS[mutant]
    move = SETTINGS[setting][0].move
    assert old in move.in_c
    monkeypatch.setattr(move, "in_c", move.in_c.replace(old, new))
    if tier.name == "simulator":
        pytest.skip("there the formula stands in for the kernel")
    with pytest.raises(AssertionError, match="Not equal"):
        same_steps(setting)


def test_an_optimiser_of_ones_own_needs_no_kernel():
    class Signs(optim.Optimizer):
        settings = dict.fromkeys(["lr"], float)

        def __init__(self, params, lr):
            super().__init__(params)
            self.lr = lr

        def remembers(self):
            return False

        def move(self, w, g):
            w -= self.lr * np.sign(g)

    class Mine(optim.SGD):
        def move(self, w, g, v=None):
            w -= 2 * self.lr * g

    for kind in (Signs, Mine):
        ws = parameters("cuda", shapes=[(2,)])
        ws[0].grad = tg.tensor(np.array([1, np.nan], np.float32), device="cuda")
        with pytest.raises(NonFiniteError, match=r"parameter 0.*at step 1"):  # it waits
            kind(ws, lr=0.5).step()
        (ws, _), (expected, _) = (trained(d, kind, {"lr": 0.5}) for d in ("cuda", "cpu"))
        for w, x in zip(ws, expected, strict=True):
            close(w, x)


def test_without_momentum_what_was_remembered_is_left_alone_and_comes_back():
    """Of two parameters one has a memory by then, and one gets its first gradient."""
    results = []
    for device in ("cuda", "cpu"):
        ws = parameters(device, shapes=[(3,), (2,)])
        optimizer = optim.SGD(ws, lr=0.1)
        for momentum, count in ((0.9, 1), (0.0, 2), (0.5, 2)):
            optimizer.momentum = momentum
            for w in ws[:count]:
                w.grad = tg.tensor(np.ones(w.shape, np.float32), device=device)
            optimizer.step()
        results.append([*ws, *optimizer.state_dict().values()])
    for got, expected in zip(*results, strict=True):
        close(got, expected)


@pytest.mark.parametrize("device, other", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_gradient_on_another_device_is_refused_and_nothing_moves(device, other):
    """As of an operation whose VJP makes an array of NumPy's on the way back."""
    ws = parameters(device, shapes=[(3,), (2,)])
    made = [w.array for w in ws]
    elsewhere = tg.tensor(np.ones(2, np.float32), device=other).array

    @tg.op(x=lambda g: elsewhere)
    def same(x):
        return x + 0

    (ws[0].sum() + same(ws[1]).sum()).backward()
    told = rf"SGD.step: the gradient of parameter 1 is on {other}[^!]*on {device}[^!]*hint: .*VJP"
    for check_finite in (True, False):
        with pytest.raises(DeviceError, match=told):
            optim.SGD(ws, lr=1.0).step(check_finite)
    told = told.replace("SGD.step", "clip_grad_norm_")
    with pytest.raises(DeviceError, match=told):
        optim.clip_grad_norm_(ws, 1.0)
    assert all(w.array is array for w, array in zip(ws, made, strict=True))
    close(ws[0].grad, np.ones(3, np.float32))


# ---- gradients that are no numbers -------------------------------------------------------------


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("setting", SETTINGS)
def test_nothing_moves_from_the_step_on_whose_gradient_was_not_finite(setting, wrong):
    kind, chosen = SETTINGS[setting]
    ws, optimizer = trained("cuda", kind, chosen, steps=2)
    before = [on_host(w).copy() for w in ws]
    state = optimizer.state_dict()
    optimizer.names[0] = "the first"
    rng = np.random.default_rng(2)
    for step in range(3):  # of which the second is wrong, and the third of other parameters too
        give_gradients(ws, rng, 0.0 if step == 0 else 1.0)
        if step == 0:
            optimizer.lr, optimizer.weight_decay = 0.0, 0.0  # so that it moves nothing but memories
            optimizer.step()
            state = optimizer.state_dict()
            before = [on_host(w).copy() for w in ws]
            optimizer.lr, optimizer.weight_decay = 0.1, 0.1
        else:
            g = on_host(ws[0].grad).copy()
            g[step] = wrong
            ws[0].grad = tg.tensor(g, device="cuda")
            optimizer.step()
    for w, x in zip(ws, before, strict=True):
        np.testing.assert_array_equal(on_host(w), x)
    told = (
        r"the gradient of the first, float32 \(3, 4\), was not finite at step 4\b[^!]*steps 4 to 5"
    )
    with pytest.raises(NonFiniteError, match=told):
        optimizer.state_dict()
    after = optimizer.state_dict()  # told once; and the memories are those of before, t as well
    memories = {name for name in state if name[0].isdigit()}
    assert {name for name in after if name[0].isdigit()} == memories
    for name in memories:
        np.testing.assert_array_equal(after[name], state[name])
    give_gradients(ws, rng)
    optimizer.step()
    assert not np.array_equal(on_host(ws[0]), before[0])


def test_every_32nd_step_tells_and_names_the_first_that_was_wrong():
    ws = parameters("cuda", shapes=[(2,), (3,)])
    optimizer = optim.Adam([("a", ws[0]), ("b", ws[1])])
    for step in range(1, 33):
        for w in ws:
            w.grad = tg.tensor(np.ones(w.shape, np.float32), device="cuda")
        if step >= 20:
            ws[step == 20].grad = tg.tensor(np.full(2 + (step == 20), np.nan, "f"), device="cuda")
        if step < 32:
            optimizer.step()
    with pytest.raises(NonFiniteError, match=r"of b, float32 \(3,\), was not finite at step 20"):
        optimizer.step()
    assert [int(memory["t"]) for memory in optimizer.memories] == [19, 19]


def test_of_several_that_are_wrong_at_once_the_first_parameter_is_named():
    ws = parameters("cuda", shapes=[(2,), (700,), (3,), (700,)])
    optimizer = optim.SGD(ws, lr=1.0)
    for w in ws[1:]:
        w.grad = tg.tensor(np.full(w.shape, np.inf, np.float32), device="cuda")
    optimizer.step()
    with pytest.raises(NonFiniteError, match="of parameter 1, "):
        optimizer.state_dict()


def test_unasked_a_step_is_made_along_anything():
    ws = parameters("cuda", shapes=[(2,)])
    optimizer = optim.SGD(ws, lr=1.0)
    ws[0].grad = tg.tensor(np.array([1, np.inf], np.float32), device="cuda")
    optimizer.step(check_finite=False)
    assert np.isinf(on_host(ws[0])[1])
    optimizer.step()
    with pytest.raises(NonFiniteError):  # of the step before, whose turn it is to be told
        optimizer.step(check_finite=False)


def test_a_parameter_on_the_host_does_not_move_without_the_others():
    here, there = parameters("cpu", shapes=[(2,)]) + parameters("cuda", shapes=[(2,)])
    optimizer = optim.SGD([here, there], lr=1.0)
    before = here.array.copy()
    here.grad = tg.tensor(np.ones(2, np.float32))
    there.grad = tg.tensor(np.array([1, np.nan], np.float32), device="cuda")
    with pytest.raises(NonFiniteError, match="parameter 1"):
        optimizer.step()
    np.testing.assert_array_equal(here.array, before)


def test_what_was_wrong_on_the_device_is_told_before_the_model_moves_on_the_host():
    """Else it would be told after steps that were made, and would take their memory back."""
    ws = parameters("cuda", shapes=[(2,)])
    optimizer = optim.Adam(ws, lr=1.0)
    ws[0].grad = tg.tensor(np.array([1, np.nan], np.float32), device="cuda")
    optimizer.step()
    ws[0].array = on_host(ws[0]).copy()
    before = ws[0].array.copy()
    ws[0].grad = tg.tensor(np.ones(2, np.float32))
    with pytest.raises(NonFiniteError, match=r"parameter 0.*at step 1"):
        optimizer.step()
    np.testing.assert_array_equal(ws[0].array, before)
    optimizer.step()
    assert optimizer.state_dict()["0.t"] == 1


# ---- clipping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0.5, 100.0, np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_clipping_is_that_of_the_host(dtype, max_norm):
    both = {}
    for device in ("cuda", "cpu"):
        ws = parameters(device, dtype)
        give_gradients(ws, np.random.default_rng(3))
        norm = optim.clip_grad_norm_(ws, max_norm)
        both[device] = norm, [w.grad for w in ws if w.grad is not None]
    (norm, gs), (expected, wanted) = both["cuda"], both["cpu"]
    assert is_on("cuda", norm)
    assert isinstance(expected, float)
    close(norm, np.array(expected))
    for g, x in zip(gs, wanted, strict=True):
        close(g, x)


def test_a_gradient_that_is_not_finite_is_left_by_clipping_for_the_step_to_find():
    ws = parameters("cuda", shapes=[(2,), (3,)])
    ws[0].grad = tg.tensor(np.full(2, 7.0, np.float32), device="cuda")
    ws[1].grad = tg.tensor(np.array([1, np.inf, 2], np.float32), device="cuda")
    assert np.isinf(on_host(optim.clip_grad_norm_(ws, 1.0)))
    np.testing.assert_array_equal(on_host(ws[0].grad), [7, 7])
    np.testing.assert_array_equal(on_host(ws[1].grad), [1, np.inf, 2])
    optimizer = optim.Adam(ws)
    optimizer.step()
    with pytest.raises(NonFiniteError, match="parameter 1"):
        optimizer.state_dict()


def test_a_gradient_that_somebody_holds_is_not_written_to():
    ws = parameters("cuda", shapes=[(2,)])
    ws[0].grad = held = tg.tensor(np.full(2, 7.0, np.float32), device="cuda")
    optim.clip_grad_norm_(ws, 1.0)
    np.testing.assert_array_equal(on_host(held), [7, 7])
    np.testing.assert_allclose(on_host(ws[0].grad), [0.5**0.5] * 2, rtol=1e-6)


# ---- from one device to another ----------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
def test_memories_follow_the_model_to_another_device(setting):
    """On the device from the third step on, and back for the last."""
    kind, chosen = SETTINGS[setting]
    results = []
    for devices in (["cpu"] * 5, ["cpu", "cpu", "cuda", "cuda", "cpu"]):
        tg.manual_seed(0)
        model, rng = nn.Linear(3, 2), np.random.default_rng(4)
        optimizer = kind(model.parameters(), **chosen)
        for device in devices:
            model.to(device)
            give_gradients(model.parameters(), rng)
            optimizer.step()
        results.append([*model.parameters(), *optimizer.state_dict().values()])
    for got, expected in zip(*results, strict=True):
        close(got, expected)


@pytest.mark.parametrize("source, target", [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_a_state_is_of_no_device(source, target):
    kind, chosen = SETTINGS["Adam"]
    ws, optimizer = trained(source, kind, chosen)
    state = optimizer.state_dict()
    assert all(type(x) is np.ndarray for x in state.values())
    others = [tg.tensor(on_host(w), requires_grad=True, device=target) for w in ws]
    resumed = kind(others, lr=1.0)
    resumed.load_state_dict(state)
    for xs, one in ((ws, optimizer), (others, resumed)):
        give_gradients(xs, np.random.default_rng(5))
        one.step()
    for w, x in zip(ws, others, strict=True):
        close(x, on_host(w))


# ---- rows of a table ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adagrad])
def test_rows_that_were_looked_up_move_alone(kind):
    tables = []
    for device in ("cuda", "cpu"):
        rng = np.random.default_rng(6)
        table = tg.tensor(rng.standard_normal((6, 3)).astype("f"), None, True, device)
        optimizer = kind([table], lr=0.5)
        for _ in range(2):
            ids = tg.tensor(np.array([4, 0, 2]), device=device).array
            values = tg.tensor(rng.standard_normal((3, 3)).astype("f"), device=device).array
            table.grad = RowGradient(values, ids, (6, 3), once=True)
            optim.clip_grad_norm_([table], 1.0)
            optimizer.step()
        tables.append(table)
    close(*tables)


# ---- costs -------------------------------------------------------------------------------------


@pytest.mark.costs
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_step_is_two_launches_for_all_parameters_and_no_wait(setting, tier):
    kind, chosen = SETTINGS[setting]
    ws = parameters("cuda", shapes=[(3, 4), (5,)])
    optimizer = kind(ws, **chosen)
    for step in range(1, 34):
        for w in ws:
            w.grad = tg.tensor(np.ones(w.shape, np.float32), device="cuda")
        with tier.counting() as costs:
            optimizer.step()
        found = costs.launches, costs.products, costs.syncs, costs.to_device, costs.to_host
        waits = int(step == 32)
        assert found == (2, 0, waits, 0, waits), step  # to look at the gradients, and to move


@pytest.mark.costs
def test_clipping_is_four_launches_and_no_wait(tier):
    ws = parameters("cuda", shapes=[(3, 4), (5,), (2,)])
    for w in ws:
        w.grad = tg.tensor(np.ones(w.shape, np.float32), device="cuda")
    with tier.counting() as costs:
        optim.clip_grad_norm_(ws, 1.0)
    found = costs.launches, costs.products, costs.syncs, costs.to_device, costs.to_host
    assert found == (4, 0, 0, 0, 0)  # squares, their sum and its root, and to scale


@pytest.mark.parametrize("kind", [optim.Adam, optim.Adagrad])
def test_more_parameters_than_one_launch_takes_and_larger_ones_than_its_blocks(kind, monkeypatch):
    """Of several dtypes, too: launches of 32, of equal dtypes."""
    monkeypatch.setattr(cuda_optim, "BLOCKS", 2)
    both = []
    for device in ("cuda", "cpu"):
        rng = np.random.default_rng(8)
        shapes = [(1,)] * 33 + [(30, 40), (2, 3)]
        ws = parameters(device, shapes=shapes) + parameters(device, np.float64, [(3,), (257,)])
        optimizer = kind(ws, lr=0.1)
        for _ in range(2):
            give_gradients(ws, rng)
            norm = optim.clip_grad_norm_(ws, 1.0)
            optimizer.step()
        both.append([*ws, np.array(on_host(norm)), *optimizer.state_dict().values()])
    for got, expected in zip(*both, strict=True):
        close(got, expected)
