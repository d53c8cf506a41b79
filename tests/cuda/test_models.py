"""Whole models on the device: what they compute, and how they learn, is what it is on NumPy."""

import gc

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.backend import backend_for

from .compared import close, is_on, on_host
from .models import MODELS, TREES, D, H, T, X, weighed


def built(name, device):
    """The model of that name, from the same seed always, its loss, and the door to its device."""
    tg.manual_seed(3)
    model, loss = MODELS[name]()
    model.to(device)
    return model, lambda: loss(lambda x: tg.tensor(x, device=device))


def gradient_of(x):
    return x.grad.dense() if hasattr(x.grad, "dense") else x.grad


def all_close(found, expected):
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        close(found[name], x)


def first_loss(name, device):
    """The loss of a new model, and the gradients of all its parameters by name."""
    model, loss = built(name, device)
    value = loss()
    value.backward()
    gradients = {f"gradient of {key}": gradient_of(x) for key, x in model.named_parameters()}
    assert all(is_on(device, g) for g in gradients.values())
    return gradients | {"loss": value}


def after_steps(name, device, steps=3):
    """All parameters after a few steps of Adam along clipped gradients."""
    model, loss = built(name, device)
    sparse = any(getattr(part, "sparse", False) for part in vars(model).values())
    kind = optim.Adagrad if sparse else optim.Adam
    optimizer = kind(model.named_parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optim.clip_grad_norm_(model.named_parameters(), 0.5)
        optimizer.step()
    optimizer.state_dict()  # which tells if a gradient was not finite
    assert all(is_on(device, x) for x in model.parameters())
    return model.state_dict()


@pytest.mark.parametrize("name", MODELS)
def test_a_loss_and_all_its_gradients_are_those_of_numpy(name):
    all_close(first_loss(name, "cuda"), first_loss(name, "cpu"))


@pytest.mark.parametrize("name", MODELS)
def test_steps_lead_where_they_lead_on_numpy(name):
    found, expected = after_steps(name, "cuda"), after_steps(name, "cpu")
    before = built(name, "cpu")[0].state_dict()
    assert found.keys() == expected.keys()
    moved = False
    for key, x in expected.items():
        # Adam divides by the size of a gradient, and so magnifies its rounding where it is small.
        np.testing.assert_allclose(found[key], x, rtol=0, atol=2e-4, err_msg=key)
        moved |= bool((np.abs(x - before[key]) > 1e-2).any())
    assert moved


def curve(name, device, steps=20):
    """The losses of twenty steps, none of them read before the end."""
    model, loss = built(name, device)
    optimizer = optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(loss())
        losses[-1].backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return np.array([x.item() for x in losses])


@pytest.mark.parametrize("name", ["language model", "tagger", "TreeLSTMCell, fold"])
def test_twenty_steps_are_the_same_curve(name):
    """As on NumPy; and made once more, to the last bit, for nothing is added up in any order."""
    found, expected = curve(name, "cuda"), curve(name, "cpu")
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert found[-1] < 0.8 * found[0]
    np.testing.assert_array_equal(curve(name, "cuda"), found)


def truncated(device):
    """The error of truncated backpropagation, the last state, and the gradients."""
    tg.manual_seed(0)
    cell, inputs = nn.GRUCell(D, H).to(device), [tg.tensor(x, device=device) for x in X]
    total, h = tg.truncated_bptt(cell, lambda h, y: weighed(h) + y, inputs, range(T), 2)
    assert isinstance(total, float)
    return {"E": np.array(total, np.float32), "h": h} | {
        name: x.grad for name, x in cell.named_parameters()
    }


def test_truncated_backpropagation_is_that_of_numpy():
    all_close(truncated("cuda"), truncated("cpu"))


@pytest.mark.costs
def test_truncated_backpropagation_waits_once_at_the_end(tier):
    truncated("cuda")
    with tier.counting() as costs:
        truncated("cuda")
    assert (costs.syncs, costs.to_host) == (1, 1)


@pytest.mark.parametrize("part", [np.s_[:], np.s_[2:5], np.s_[::2], np.s_[::-1], np.s_[7:]])
def test_a_part_of_what_was_uploaded_is_that_part(part):
    backend, whole = backend_for("cuda"), np.arange(10, 20)
    backend.kept(whole)
    for _ in range(2):
        np.testing.assert_array_equal(on_host(backend.kept(whole[part])), whole[part])
    rows = whole.reshape(2, 5)[1]
    np.testing.assert_array_equal(on_host(backend.kept(rows)), rows)


def test_what_was_uploaded_to_one_gpu_is_not_read_on_another(monkeypatch):
    backend, whole = backend_for("cuda"), np.arange(10, 20)
    before, there = len(backend.uploaded), backend.kept(whole)
    with monkeypatch.context() as on_the_second:
        on_the_second.setattr(backend.cupy.cuda.runtime, "getDevice", lambda: 1)
        assert backend.kept(whole) is not there
        close(backend.kept(whole[2:5]), whole[2:5])
    assert backend.kept(whole) is there
    del whole
    gc.collect()
    assert len(backend.uploaded) == before


def test_what_a_structure_has_uploaded_goes_with_it():
    uploaded = backend_for("cuda").uploaded
    gc.collect()
    before = len(uploaded)
    forest = tg.Structure.trees(TREES)
    leaves = tg.tensor(np.ones((len(forest.leaves), H), np.float32), device="cuda")
    h = tg.fold(nn.RecursiveCell(H, H).to("cuda"), forest, {0: leaves})
    there = len(uploaded)
    assert there > before
    tg.fold(nn.RecursiveCell(H, H).to("cuda"), forest, {0: leaves})
    assert len(uploaded) == there  # once, however often it is run
    del forest, h
    gc.collect()
    assert len(uploaded) == before
