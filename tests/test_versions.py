"""Versions of leaves: a graph goes back to the values that it read, or not at all.

That of the steps of each optimiser is in ``test_optim``.
"""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn


def leaf(*shape):
    return tg.tensor(np.ones(shape), requires_grad=True)


def stepped(optimizer, *leaves):
    for w in leaves:
        w.grad = tg.tensor(np.ones(w.shape))
    optimizer.step()


CHANGES = {
    "a step": lambda model: stepped(tg.optim.Adam(model.parameters()), *model.parameters()),
    "load_state_dict": lambda model: model.load_state_dict(model.state_dict()),
    "requires_grad": lambda model: [
        setattr(w, "requires_grad", on) for w in model.parameters() for on in (False, True)
    ],
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("through", ["the layer", "a checkpoint"])
def test_a_graph_of_before_is_refused(name, through):
    model = nn.Linear(2, 3)
    x = np.ones((1, 2), np.float32)
    y = tg.sum(model(x) if through == "the layer" else tg.checkpoint(model, x))
    CHANGES[name](model)
    with pytest.raises(tg.ValueChangedError, match=r"has changed since\n  expected: forward"):
        y.backward()
    assert all(w.grad is None or name == "a step" for w in model.parameters())
    model.zero_grad()
    tg.sum(model(x)).backward()  # a new one is in order
    assert all(w.grad is not None for w in model.parameters())


def test_a_model_that_moves_leaves_its_graphs_behind_and_one_that_stays_does_not(monkeypatch):
    model = nn.Linear(2, 3)
    y = tg.sum(model(np.ones((1, 2), np.float32)))
    model.to("cpu")
    y.backward(retain_graph=True)
    monkeypatch.setattr(tg.Tensor, "to", lambda x, device: tg.tensor(x))
    model.to("elsewhere")
    with pytest.raises(tg.ValueChangedError, match=r"that Linear\.to has changed"):
        y.backward()


def test_a_leaf_that_is_its_own_loss_may_have_moved():
    w = leaf()
    stepped(tg.optim.SGD([w], lr=0.1), w)
    w.grad = None
    w.backward()
    assert w.grad.item() == 1.0


def test_two_nets_that_train_in_turn_are_in_order():
    # As of a generator and its critic: each step is followed by a forward pass of its own.
    maker, critic = nn.Linear(2, 2), nn.Linear(2, 1)
    optimizers = [tg.optim.Adam(net.parameters()) for net in (maker, critic)]
    x = np.ones((3, 2), np.float32)
    for _ in range(3):
        for optimizer in optimizers:
            loss = tg.mean(critic(maker(x)))
            for other in optimizers:
                other.zero_grad()
            loss.backward()
            optimizer.step()


def test_losses_that_add_up_before_a_step_are_in_order():
    model = nn.Linear(2, 1)
    optimizer = tg.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        for _ in range(3):
            tg.sum(model(np.ones((1, 2), np.float32))).backward()
        optimizer.step()


def test_what_does_not_go_back_to_the_leaf_is_not_refused():
    w, x = leaf(2), leaf(2)
    y = tg.sum(w * x)
    stepped(tg.optim.SGD([w], lr=0.1), w)
    np.testing.assert_array_equal(tg.grad(y, x).array, [1.0, 1.0])  # the values that it read


def test_a_graph_does_not_go_back_to_a_table_whose_rows_have_moved():
    table = tg.tensor(np.ones((5, 2)), requires_grad=True)
    tg.sum(tg.embedding([1, 3], table)).backward()
    y = tg.sum(table * table)
    tg.optim.SGD([table], lr=0.1).step()
    with pytest.raises(tg.ValueChangedError, match=r"SGD\.step has changed"):
        y.backward()


def test_a_graph_does_not_go_back_to_weights_that_were_loaded_over():
    model = tg.nn.Linear(2, 3)
    y = tg.sum(model(np.ones((1, 2), np.float32)))
    model.load_state_dict(model.state_dict())
    with pytest.raises(tg.ValueChangedError, match=r"Linear\.load_state_dict has changed"):
        y.backward()
