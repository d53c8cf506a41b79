"""Laws of the optimisers and of gradient clipping."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import backend, optim

seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.lists(st.integers(1, 3), max_size=2), min_size=1, max_size=3)
rates = st.sampled_from([0.0, 0.03, 0.7])
betas = st.sampled_from([0.0, 0.5, 0.9, 0.999])
suffixes = st.sampled_from([".npz", ".safetensors"])


@st.composite
def optimisers(draw):
    """A maker of an optimiser, with the settings that it was drawn with."""
    kind = draw(st.sampled_from(list(WRITTEN_OUT)))
    if kind is optim.SGD:
        momentum = draw(betas)
        nesterov = draw(st.booleans()) and momentum > 0
        chosen = {"lr": draw(rates), "momentum": momentum, "nesterov": nesterov}
    else:
        chosen = {"lr": draw(rates), "eps": draw(st.sampled_from([1e-8, 0.1]))}
        if kind is optim.RMSprop:
            chosen["alpha"] = draw(betas)
        elif kind is not optim.Adagrad:
            chosen["betas"] = (draw(betas), draw(betas))
    return kind, chosen | {"weight_decay": draw(rates)}


def parameters(rng, shapes, dtype=float):
    return [tg.tensor(rng.normal(size=n).astype(dtype), requires_grad=True) for n in shapes]


def gradients(rng, ws, steps):
    """For each step a gradient for each parameter, or now and then None."""
    return [
        [rng.normal(size=w.shape) if rng.random() < 0.8 else None for w in ws] for _ in range(steps)
    ]


def take_steps(optimiser, ws, gs):
    for one in gs:
        for w, g in zip(ws, one, strict=True):
            w.grad = None if g is None else tg.tensor(g)
        optimiser.step()


def sgd_written_out(w, gs, lr, momentum, nesterov, weight_decay):
    """The velocity as the sum that it is: gradients, times momentum for each step since."""
    seen = []
    for g in gs:
        seen.append(g + weight_decay * w)
        t = len(seen)
        v = sum(momentum ** (t - i) * d for i, d in enumerate(seen, 1))
        w = w - lr * (seen[-1] + momentum * v if nesterov else v)
    return w


def adam_written_out(w, gs, lr, betas, eps, weight_decay):
    """The moments as weighted means of all gradients so far."""
    seen = []
    for g in gs:
        seen.append(g + weight_decay * w)
        t = len(seen)
        b1, b2 = ([b ** (t - i) for i in range(1, t + 1)] for b in betas)
        m = sum(b * d for b, d in zip(b1, seen, strict=True)) / sum(b1)
        v = sum(b * d**2 for b, d in zip(b2, seen, strict=True)) / sum(b2)
        w = w - lr * m / (np.sqrt(v) + eps)
    return w


def adamw_written_out(w, gs, lr, weight_decay, **settings):
    """Steps of Adam from a parameter that is shrunk before each, one after the other."""
    for t in range(1, len(gs) + 1):
        shrunk = w * (1 - lr * weight_decay)
        step = adam_written_out(0 * w, gs[:t], lr, weight_decay=0.0, **settings)
        before = adam_written_out(0 * w, gs[: t - 1], lr, weight_decay=0.0, **settings)
        w = shrunk + step - before
    return w


def adagrad_written_out(w, gs, lr, eps, weight_decay):
    """Each gradient divided by the length of all gradients of that entry so far."""
    seen = []
    for g in gs:
        seen.append(g + weight_decay * w)
        w = w - lr * seen[-1] / (np.linalg.norm(seen, axis=0) + eps)
    return w


def rmsprop_written_out(w, gs, lr, alpha, eps, weight_decay):
    """Each gradient divided by the root of a weighted mean of squares, zeros before the first."""
    seen = []
    for g in gs:
        seen.append(g + weight_decay * w)
        t = len(seen)
        v = sum((1 - alpha) * alpha ** (t - i) * d**2 for i, d in enumerate(seen, 1))
        w = w - lr * seen[-1] / (np.sqrt(v) + eps)
    return w


WRITTEN_OUT = {
    optim.SGD: sgd_written_out,
    optim.Adam: adam_written_out,
    optim.AdamW: adamw_written_out,
    optim.Adagrad: adagrad_written_out,
    optim.RMSprop: rmsprop_written_out,
}


@given(seeds, shapes, st.integers(1, 6), optimisers())
def test_steps_are_the_formulas_written_out(seed, shapes, steps, drawn):
    kind, chosen = drawn
    rng = np.random.default_rng(seed)
    ws = parameters(rng, shapes)
    gs = gradients(rng, ws, steps)
    expected = [
        WRITTEN_OUT[kind](w.array, [one[i] for one in gs if one[i] is not None], **chosen)
        for i, w in enumerate(ws)
    ]
    take_steps(kind(ws, **chosen), ws, gs)
    for w, x in zip(ws, expected, strict=True):
        np.testing.assert_allclose(w.array, x, rtol=1e-10, atol=1e-12, strict=True)
        assert type(w.array) is np.ndarray  # of no axes too, which NumPy likes to turn into scalars


@given(seeds, shapes, st.integers(0, 4), st.integers(1, 4), optimisers(), st.data())
def test_resuming_from_a_file_changes_no_bit(tmp_path_factory, seed, shapes, n, k, drawn, data):
    kind, chosen = drawn
    rng = np.random.default_rng(seed)
    ws = parameters(rng, shapes, np.float32)
    gs = gradients(rng, ws, n + k)
    straight = kind(ws, **chosen)
    take_steps(straight, ws, gs[:n])
    path = tmp_path_factory.mktemp("resume") / f"state{data.draw(suffixes)}"
    tg.save(path, straight.state_dict())
    copies = [tg.tensor(w.array, requires_grad=True) for w in ws]
    take_steps(straight, ws, gs[n:])

    resumed = kind(copies, lr=0.5)  # other settings: the file has the right ones
    resumed.load_state_dict(tg.load(path))
    take_steps(resumed, copies, gs[n:])
    for w, x in zip(ws, copies, strict=True):
        np.testing.assert_array_equal(w.array, x.array, strict=True)
    state, other = straight.state_dict(), resumed.state_dict()
    assert state.keys() == other.keys()
    for name, x in state.items():
        np.testing.assert_array_equal(x, other[name], strict=True)


@given(seeds, shapes, optimisers(), st.data())
def test_a_state_that_does_not_fit_is_refused_whole_and_every_reason_listed(
    seed, shapes, drawn, data
):
    kind, chosen = drawn
    rng = np.random.default_rng(seed)
    ws = parameters(rng, shapes)
    optimiser = kind(ws, **chosen)
    take_steps(optimiser, ws, gradients(rng, ws, 2))
    right = optimiser.state_dict()
    state = {name: x + np.ones((), x.dtype) for name, x in right.items()}
    faulty = data.draw(st.sets(st.sampled_from(["lr", "weight_decay"]), max_size=2))
    for name in faulty:
        del state[name]
    reasons = [f"missing: {name}" for name in faulty]
    for name, x in right.items():
        if name not in faulty and data.draw(st.integers(0, 3)) == 0:
            state[name] = np.zeros((*x.shape, 2), x.dtype)
            wrong = f"{x.dtype} {(*x.shape, 2)}"
            reasons.append(f"{name}: expected {x.dtype} {x.shape}, got {wrong}")
    for name in data.draw(st.sets(st.sampled_from(["9.v", "0.speed", "rate"]))):
        state[name] = np.zeros(1)
        reasons.append(f"unknown: {name}")
    assume(reasons)
    with pytest.raises(tg.CheckpointError) as caught:
        optimiser.load_state_dict(state)
    told = caught.value.args[0].splitlines()[1:-1]
    assert sorted(told) == sorted(f"  {line}" for line in reasons)
    for name, x in optimiser.state_dict().items():
        np.testing.assert_array_equal(x, right[name], strict=True)


def test_half_a_memory_is_refused():
    w = tg.tensor([1.0], requires_grad=True)
    optimiser = optim.Adam([w])
    take_steps(optimiser, [w], [[np.ones(1)]])
    state = optimiser.state_dict()
    del state["0.m"]
    with pytest.raises(tg.CheckpointError, match=r"missing: 0\.m"):
        optim.Adam([w]).load_state_dict(state)


@given(seeds, optimisers())
def test_a_graph_from_before_a_step_does_not_go_back_to_what_has_moved(seed, drawn):
    kind, chosen = drawn
    rng = np.random.default_rng(seed)
    w, x = parameters(rng, [(3, 2), (4, 2)])
    y = tg.sum(tg.tanh(x @ w.T) @ (w * w))
    before = tg.grad(y, x, retain_graph=True).array
    w.grad, held, value = tg.tensor(rng.normal(size=w.shape)), w.array, w.detach()
    kind([w], **(chosen | {"lr": 0.1})).step()
    assert not np.array_equal(w.array, held)
    assert value.array is held
    w.grad = None
    for ask in (lambda **kept: y.backward(**kept), lambda **kept: tg.grad(y, [x, w], **kept)):
        with pytest.raises(tg.ValueChangedError, match=rf"that {kind.__name__}\.step has changed"):
            ask(retain_graph=True)
    assert w.grad is None and x.grad is None
    np.testing.assert_array_equal(tg.grad(y, x).array, before)  # the way to x is as it was


@given(seeds, shapes, optimisers())
def test_a_step_neither_changes_nor_keeps_a_gradient(seed, shapes, drawn):
    kind, chosen = drawn
    rng = np.random.default_rng(seed)
    ws = parameters(rng, shapes)
    copies = [tg.tensor(w.array, requires_grad=True) for w in ws]
    one, other = kind(ws, **chosen), kind(copies, **chosen)
    for gs in gradients(rng, ws, 3):
        take_steps(one, ws, [gs])
        take_steps(other, copies, [gs])
        for w, g in zip(ws, gs, strict=True):
            if g is not None:
                np.testing.assert_array_equal(w.grad.array, g)
                w.grad.array[...] = np.nan  # what the user does to it later is nobody's business
        for w, x in zip(ws, copies, strict=True):
            np.testing.assert_array_equal(w.array, x.array)


@given(optimisers())
def test_parameters_keep_their_dtype(drawn):
    kind, chosen = drawn
    w = tg.tensor([1.0, 2.0], requires_grad=True)
    optimiser = kind([w], **chosen)
    for _ in range(2):
        optimiser.lr = np.float64(0.1)
        w.grad = tg.tensor(np.ones(2))
        optimiser.step()
    assert w.dtype == np.float32
    state = optimiser.state_dict()
    assert {state[name].dtype for name in state.keys() & {"0.m", "0.v"}} <= {w.dtype}


HOLDERS = {
    "nobody": lambda w: None,
    "an array": lambda w: w.array,
    "a view": lambda w: w.array[:1],
    "a constant": lambda w: w.detach(),
    "a graph": lambda w: w * w,
    "another parameter": lambda w: setattr(OTHER, "array", w.array),
    "one who gave a view": lambda w: given_a_view(w, np.array(w.array)[:]),
    "one who gave columns": lambda w: setattr(w, "array", np.asfortranarray(w.array)),
    "one who locked it": lambda w: w.array.setflags(write=False),
}
OTHER = tg.tensor(np.zeros((3, 2)), requires_grad=True)


def given_a_view(w, view):
    w.array = view
    return view.base


@pytest.mark.unwatched
@pytest.mark.parametrize("holder", HOLDERS)
@given(seeds, optimisers())
def test_a_step_writes_into_an_array_that_nobody_else_has_and_into_no_other(holder, seed, drawn):
    kind, chosen = drawn
    rng = np.random.default_rng(seed)
    (w,) = parameters(rng, [(3, 2)])
    copy = tg.tensor(w.array, requires_grad=True)
    one, other = kind([w], **chosen), kind([copy], **chosen)
    for g in rng.normal(size=(3, 3, 2)):
        held = HOLDERS[holder](w)
        if holder == "another parameter":
            held = OTHER
        before, place = w.numpy(), w.array.ctypes.data
        take_steps(one, [w], [[g]])
        take_steps(other, [copy], [[g]])
        np.testing.assert_array_equal(w.array, copy.array)
        assert (w.array.ctypes.data == place) == (holder == "nobody")
        if holder not in ("nobody", "one who gave columns", "one who locked it", "a graph"):
            array = getattr(held, "array", held)
            np.testing.assert_array_equal(array, before[: len(array)])
        if holder == "a graph":
            (kept, *_) = held.node.edges[0][2]
            np.testing.assert_array_equal(kept, before)


@given(seeds, optimisers(), st.sampled_from([1, 5, 64]))
def test_a_step_in_blocks_is_that_of_the_whole(seed, drawn, nbytes):
    kind, chosen = drawn
    rng = np.random.default_rng(seed)
    ws = parameters(rng, [(3, 5), (), (7,)])
    copies = [tg.tensor(w.array, requires_grad=True) for w in ws]
    gs = gradients(rng, ws, 3)
    take_steps(kind(ws, **chosen), ws, gs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "_CACHED", nbytes)
        take_steps(kind(copies, **chosen), copies, gs)
    for w, x in zip(ws, copies, strict=True):
        np.testing.assert_array_equal(w.array, x.array, strict=True)


@given(seeds, optimisers())
def test_a_state_that_was_taken_or_given_is_not_written_to(seed, drawn):
    kind, chosen = drawn
    rng = np.random.default_rng(seed)
    ws = parameters(rng, [(3, 2), (2,)])
    gs = gradients(rng, ws, 4)
    optimiser = kind(ws, **chosen)
    take_steps(optimiser, ws, gs[:2])
    copies = [tg.tensor(w.array, requires_grad=True) for w in ws]
    state = {name: x.copy(order="F") for name, x in optimiser.state_dict().items()}
    before = {name: x.copy() for name, x in state.items()}
    other = kind(copies, **chosen)
    other.load_state_dict(state)
    take_steps(optimiser, ws, gs[2:])
    take_steps(other, copies, gs[2:])
    for w, x in zip(ws, copies, strict=True):
        np.testing.assert_array_equal(w.array, x.array, strict=True)
    for name, x in state.items():
        np.testing.assert_array_equal(x, before[name], strict=True)


def test_zero_grad_forgets():
    ws = parameters(np.random.default_rng(0), [(2,), (3, 1)])
    for w in ws:
        w.grad = tg.tensor(w.array)
    optim.SGD(ws, lr=1.0).zero_grad()
    assert all(w.grad is None for w in ws)


leaf = tg.tensor([1.0], requires_grad=True)
REFUSED = {
    "none": ([], ValueError, "there are no parameters"),
    "twice": ([leaf, leaf], ValueError, "parameter 1 and parameter 0 are the same"),
    "named twice": ([("a", leaf), ("b", leaf)], ValueError, "b and a are the same"),
    "untracked": ([leaf, tg.tensor([1.0])], tg.NotTrackedError, r"parameter 1, .* is not tracked"),
    "computed": ([leaf * 2], tg.NotTrackedError, "parameter 0, .* was computed from others"),
    "array": ([leaf.array], tg.DtypeError, "parameter 0 is float32"),
    "one": (leaf, tg.DtypeError, "are one Tensor"),
}


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_optimised_is_refused(kind, case):
    params, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        kind(params, lr=0.1)


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        (optim.SGD, {"lr": -0.1}),
        (optim.SGD, {"lr": float("nan")}),
        (optim.SGD, {"lr": 0.1, "momentum": -1}),
        (optim.SGD, {"lr": 0.1, "weight_decay": -1}),
        (optim.SGD, {"lr": 0.1, "nesterov": True}),
        (optim.Adam, {"lr": float("inf")}),
        (optim.Adam, {"betas": (1.0, 0.9)}),
        (optim.Adam, {"betas": (0.9, -0.1)}),
        (optim.Adam, {"eps": -1}),
        (optim.Adam, {"weight_decay": -1}),
    ],
)
def test_settings_out_of_range_are_refused(kind, chosen):
    with pytest.raises(ValueError, match="expected"):
        kind([leaf], **chosen)


# ---- clipping ----------------------------------------------------------------------------------


@given(seeds, shapes, st.sampled_from([1e-30, 1.0, 1e25]), st.sampled_from([0.1, 0.9, 1.1]))
def test_clipping_scales_all_gradients_to_the_largest_norm(seed, shapes, scale, ratio):
    rng = np.random.default_rng(seed)
    ws = parameters(rng, shapes, np.float32)
    bare = tg.tensor([1.0], requires_grad=True)  # no gradient reached it
    for w in ws:
        w.grad = tg.tensor((rng.normal(size=w.shape) * scale).astype(np.float32))
    old = [(w.grad.array, w.grad.array.copy()) for w in ws]
    everything = np.concatenate([g.ravel().astype(float) for g, _ in old])
    norm = float(np.sqrt((everything**2).sum()))
    max_norm = ratio * norm

    returned = optim.clip_grad_norm_([*ws, bare], max_norm)
    assert type(returned) is float
    assert returned == pytest.approx(norm, rel=1e-12, abs=0)
    expected = min(1.0, max_norm / (norm + 1e-6))
    for w, (array, g) in zip(ws, old, strict=True):
        np.testing.assert_array_equal(array, g)  # the array itself is never written to
        assert w.grad.dtype == np.float32 and type(w.grad.array) is np.ndarray
        np.testing.assert_allclose(w.grad.array, g.astype(float) * expected, rtol=1e-6, atol=1e-44)
    assert bare.grad is None


@given(seeds, shapes, st.sampled_from([np.nan, np.inf, -np.inf]), st.booleans(), st.data())
def test_a_gradient_that_is_not_finite_is_named_and_nothing_changes(
    seed, shapes, value, named, data
):
    rng = np.random.default_rng(seed)
    ws = parameters(rng, shapes, np.float32)
    i = data.draw(st.integers(0, len(ws) - 1))
    for w in ws:
        w.grad = tg.tensor(rng.normal(size=w.shape).astype(np.float32))
    ws[i].grad.array.flat[-1] = value
    grads = [w.grad for w in ws]
    copies = [g.array.copy() for g in grads]
    pairs = [(f"layer.{j}", w) for j, w in enumerate(ws)]
    with pytest.raises(tg.NonFiniteError, match=f"layer.{i}," if named else f"parameter {i},"):
        optim.clip_grad_norm_(pairs if named else ws, 1e-3)
    for w, g, x in zip(ws, grads, copies, strict=True):
        assert w.grad is g
        np.testing.assert_array_equal(g.array, x)


@pytest.mark.parametrize("max_norm", [0, -1.0, float("nan")])
def test_a_norm_that_is_not_positive_is_refused(max_norm):
    w = tg.tensor([3.0], requires_grad=True)
    w.grad = tg.tensor([4.0])
    with pytest.raises(ValueError, match="expected: max_norm > 0"):
        optim.clip_grad_norm_([w], max_norm)
    assert w.grad.item() == 4


def test_an_infinite_norm_only_measures_and_no_gradient_has_norm_0():
    w = tg.tensor([3.0, 4.0], requires_grad=True)
    assert optim.clip_grad_norm_([w], 1.0) == 0
    w.grad = w.detach()
    assert optim.clip_grad_norm_([w], float("inf")) == 5
    assert w.grad.array.tolist() == [3, 4]


def test_a_locked_gradient_is_scaled_in_a_copy():
    w = tg.tensor([3.0, 4.0], requires_grad=True)
    w.grad = tg.tensor([3.0, 4.0])
    w.grad.array.setflags(write=False)
    optim.clip_grad_norm_([w], 1.0)
    np.testing.assert_allclose(w.grad.array, [0.6, 0.8], rtol=1e-6)


def test_one_tensor_is_not_taken_for_its_rows():
    with pytest.raises(tg.DtypeError, match=r"pass \[parameter\]"):
        optim.clip_grad_norm_(leaf, 1.0)


# ---- PyTorch -----------------------------------------------------------------------------------


@pytest.mark.torch
@given(seeds, shapes, st.integers(1, 6), optimisers())
def test_steps_are_those_of_pytorch(seed, shapes, steps, drawn):
    torch = pytest.importorskip("torch")
    kind, chosen = drawn
    rng = np.random.default_rng(seed)
    ws = parameters(rng, shapes)
    gs = gradients(rng, ws, steps)
    theirs = [torch.from_numpy(w.array.copy()).requires_grad_() for w in ws]
    optimiser = getattr(torch.optim, kind.__name__)(theirs, **chosen)
    take_steps(kind(ws, **chosen), ws, gs)
    for one in gs:
        for w, g in zip(theirs, one, strict=True):
            w.grad = None if g is None else torch.from_numpy(g.copy())
        optimiser.step()
    for w, x in zip(ws, theirs, strict=True):
        np.testing.assert_allclose(w.array, x.detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.torch
@given(seeds, shapes, st.floats(0.1, 10))
def test_clipping_is_that_of_pytorch(seed, shapes, max_norm):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    ws = parameters(rng, shapes)
    theirs = [torch.from_numpy(w.array.copy()).requires_grad_() for w in ws]
    for w, x in zip(ws, theirs, strict=True):
        w.grad = tg.tensor(rng.normal(size=w.shape))
        x.grad = torch.from_numpy(w.grad.numpy())
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert optim.clip_grad_norm_(ws, max_norm) == pytest.approx(expected.item(), rel=1e-12)
    for w, x in zip(ws, theirs, strict=True):
        np.testing.assert_allclose(w.grad.array, x.grad.numpy(), rtol=1e-12)


# ---- gradients that are not finite ---------------------------------------------------------------


@given(seeds, optimisers(), st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_a_gradient_that_is_not_finite_stops_the_step_before_anything_moves(
    seed, drawn, wrong, data
):
    kind, chosen = drawn
    rng = np.random.default_rng(seed)
    ws = parameters(rng, [(2, 3), (4,), ()])
    optimiser = kind([(name, w) for name, w in zip("abc", ws, strict=True)], **chosen)
    gs = gradients(rng, ws, 2)
    take_steps(optimiser, ws, gs[:1])
    guilty = data.draw(st.integers(0, 2))
    bad = np.array(rng.normal(size=ws[guilty].shape))
    bad.flat[data.draw(st.integers(0, bad.size - 1))] = wrong
    for i, w in enumerate(ws):
        w.grad = tg.tensor(bad if i == guilty else rng.normal(size=w.shape))
    before, memory = [w.numpy() for w in ws], optimiser.state_dict()
    with pytest.raises(tg.NonFiniteError, match=f"{kind.__name__}.step: the gradient of") as caught:
        optimiser.step()
    assert f"of {'abc'[guilty]}, " in str(caught.value) and "nothing has been" in str(caught.value)
    for w, old in zip(ws, before, strict=True):
        np.testing.assert_array_equal(w.array, old)
    for name, x in optimiser.state_dict().items():
        np.testing.assert_array_equal(x, memory[name])
    with np.errstate(invalid="ignore"):
        optimiser.step(check_finite=False)  # who asks for it gets it
    assert not np.isfinite(ws[guilty].array).all()


def test_rows_that_are_not_finite_stop_the_step_too():
    table = tg.tensor(np.ones((5, 2)), requires_grad=True)
    optimiser = optim.SGD([table], lr=0.1)
    tg.sum(tg.embedding([1, 3], table) * np.array([[1.0, np.inf], [1.0, 1.0]])).backward()
    with pytest.raises(tg.NonFiniteError, match="1 infinite"):
        optimiser.step()
    np.testing.assert_array_equal(table.array, np.ones((5, 2)))


def test_large_gradients_whose_squares_overflow_are_finite():
    w = tg.tensor(np.ones(3, np.float32), requires_grad=True)
    w.grad = tg.tensor(np.full(3, 1e30, np.float32))
    optim.SGD([w], lr=1e-30).step()
    np.testing.assert_allclose(w.array, 0.0, atol=1e-6)


FLOAT16 = {
    optim.SGD: {"momentum": 0.9},
    optim.Adagrad: {},
    optim.RMSprop: {},
    optim.Adam: {},
    optim.AdamW: {},
}


@pytest.mark.parametrize("kind", FLOAT16, ids=lambda kind: kind.__name__)
@given(seeds, st.sampled_from([0.0, 1e-7, 1e-4, 1.0, 1e3]))
@example(13899, 1e-7)  # AdamW: an entry that decays, is rounded, and then steps close to 0
def test_steps_of_float16_are_those_of_float64_rounded(kind, seed, size):
    """Where eps, 1e-8, and squares of gradients are 0 in float16, or above its largest number."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=5).astype(np.float16)
    ws = [tg.tensor(start.astype(dtype), requires_grad=True) for dtype in (np.float16, float)]
    both = [kind([w], lr=0.01, **FLOAT16[kind]) for w in ws]
    for _ in range(3):
        g = (size * rng.normal(size=5)).astype(np.float16)
        g[0] = 0
        before = np.abs(ws[1].array)
        for w, optimiser in zip(ws, both, strict=True):
            w.grad = tg.tensor(g.astype(w.dtype))
            optimiser.step()
        assert ws[0].dtype == np.float16
        most = 1e-3 * before + 2e-3 * np.abs(ws[1].array) + 2e-7  # rounded before and after a step
        assert (np.abs(ws[0].array - ws[1].array) <= most).all()
        if kind is not optim.AdamW:  # which decays
            assert ws[0].array[0] == start[0]
        ws[1].array = ws[0].array.astype(float)
    assert all(np.isfinite(x).all() for x in both[0].state_dict().values())


def test_memories_of_float16_go_through_a_state_dict():
    w = tg.tensor(np.ones(3, np.float16), requires_grad=True)
    one, other = optim.Adam([w]), optim.Adam([w])
    w.grad = tg.tensor(np.full(3, 1e-4, np.float16))
    one.step()
    other.load_state_dict(one.state_dict())
    assert other.state_dict()["0.v"].dtype == np.float32
    np.testing.assert_array_equal(other.state_dict()["0.v"], one.state_dict()["0.v"])
    assert (other.state_dict()["0.v"] > 0).all()
