"""The floor of an output-recurrent net is what it is said to be, and its nets learn or cannot."""

import json

import numpy as np
import pytest

import tinygrad_rnn as tg
from demos import output_recurrence as demo


def quick(path, *flags):
    return demo.main(["--quick", "--no-plot", "--out", str(path), *flags])


def test_all_claims_are_seen(tmp_path, capsys):
    assert quick(tmp_path) == 0
    out = capsys.readouterr().out
    assert out.count("seen: ") == 5 and "NOT SEEN" not in out
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {(one["task"], one["net"]): one["loss"] for one in lines if "net" in one}
    (least,) = [one["floor"] for one in lines if one.get("floor", 0) > 0.01]
    assert losses["on demand", "Jordan on targets"] >= least - 1e-6
    assert len((tmp_path / "on_demand.csv").read_text().splitlines()) == 101


def test_without_learning_the_claims_are_not_seen(tmp_path, capsys):
    flags = ["--steps", "1", "--quiet", "--no-plot", "--out", str(tmp_path)]
    assert demo.main(flags) == 1
    assert "NOT SEEN: on demand, Elman learns" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--length", "1"], ["--values", "1"]])
def test_a_task_without_a_memory_is_refused(flags, tmp_path, capsys):
    args = ["--steps", "1", "--no-plot", "--quiet", "--out", str(tmp_path), *flags]
    assert demo.main(args) == 1
    assert capsys.readouterr().err.startswith("error: nothing to remember")


@pytest.mark.parametrize("flags", [["--values", "0"], ["--lr", "nan"], ["--steps", "x"]])
def test_wrong_flags_are_refused(flags, tmp_path):
    with pytest.raises(SystemExit) as stop:
        demo.main(["--out", str(tmp_path), *flags])
    assert stop.value.code == 2


# ---- the tasks and the floor ----


def data(values=3, sequences=400, steps=12, seed=0):
    return demo.stream(sequences, steps, values, np.random.default_rng(seed))


def test_targets_are_those_of_a_loop_over_the_steps():
    x = data(sequences=20)
    held, asked = demo.always(x, 3), demo.on_demand(x, 3)
    for b in range(len(x)):
        for t, event in enumerate(x[b]):
            memory = event if event < 3 else memory  # noqa: F821
            assert held[b, t] == memory
            assert asked[b, t] == (memory if event == 4 else 3)


def best_table(x, y):
    """The least loss of any table of p(y | x, y before), each row of it fitted by hand."""
    total, previous = 0.0, demo.before(y)
    for context in {*zip(x.ravel(), previous.ravel(), strict=True)}:
        answers = y[(x == context[0]) & (previous == context[1])]
        for answer in set(answers.tolist()):
            p = (answers == answer).mean()
            total -= (answers == answer).sum() * np.log(p)
    return total / y.size


@pytest.mark.parametrize("targets", [demo.on_demand, demo.always])
def test_the_floor_is_the_loss_of_the_best_table(targets):
    x = data()
    y = targets(x, 3)
    np.testing.assert_allclose(demo.floor(x, y), best_table(x, y), atol=1e-12)


def test_the_floor_is_that_of_the_formula():
    x = data(sequences=2000)
    asks = x == 4
    unknown = asks[:, 1:] & ~asks[:, :-1]
    formula = unknown.sum() / x.size * np.log(3)
    np.testing.assert_allclose(demo.floor(x, demo.on_demand(x, 3)), formula, rtol=0.01)
    np.testing.assert_allclose(demo.floor(x, demo.always(x, 3)), 0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_no_jordan_net_gets_below_the_floor(seed):
    """Whatever its weights, and however its logits are sharpened."""
    x = data(sequences=50, seed=seed)
    y = demo.on_demand(x, 3)
    tg.manual_seed(seed)
    net = demo.Jordan(3, 4, 8)
    for scale in (0.0, 1.0, 10.0):
        loss = tg.cross_entropy(net(x, y) * scale, y.ravel()).item()
        assert loss >= demo.floor(x, y) - 1e-6


# ---- the nets are the equations ----


def test_the_nets_run_the_equations():
    x = data(sequences=3, steps=4)
    y = demo.on_demand(x, 3)
    tg.manual_seed(0)
    elman, jordan, free = (kind(3, 4, 5) for kind in (demo.Elman, demo.Jordan, demo.Free))
    np.testing.assert_allclose(elman(x, y).array, by_hand_elman(elman, x), atol=1e-6)
    logits = by_hand_jordan(jordan.cell, x, lambda o, t: np.eye(4)[y[:, t]])
    np.testing.assert_allclose(jordan(x, y).array, logits, atol=1e-6)
    logits = by_hand_jordan(free.cell, x, lambda o, t: o)
    np.testing.assert_allclose(free(x, y).array, logits, atol=1e-6)
    logits = by_hand_jordan(jordan.cell, x, lambda o, t: np.eye(4)[o.argmax(-1)])
    np.testing.assert_allclose(demo.on_its_own(jordan.cell, x, demo.choice), logits, atol=1e-6)


def by_hand_elman(net, x):
    w = {name: p.array for name, p in net.named_parameters()}
    h, logits = np.zeros((len(x), 5)), []
    for t in range(x.shape[1]):
        a = np.eye(5)[x[:, t]] @ w["cell.weight_ih"].T + h @ w["cell.weight_hh"].T
        h = np.tanh(a + w["cell.bias_ih"] + w["cell.bias_hh"])
        logits.append(h @ w["V.weight"].T + w["V.bias"])
    return np.stack(logits, 1).reshape(x.size, -1)


def by_hand_jordan(cell, x, fed_back):
    w = {name: p.array for name, p in cell.named_parameters()}
    y, logits = np.zeros((len(x), 4)), []
    for t in range(x.shape[1]):
        a = np.eye(5)[x[:, t]] @ w["weight_ih"].T + y @ w["weight_oh"].T + w["bias_ih"]
        o = np.tanh(a) @ w["weight_ho"].T + w["bias_ho"]
        y = fed_back(o, t)
        logits.append(o)
    return np.stack(logits, 1).reshape(x.size, -1)


# ---- the exercise ----


def waits(x, values):
    """A solution: "wait, and remember v" is class `values + v`."""
    v = demo.always(x, values)
    return np.where(x == values + 1, v, values + v)


def solves(solution, values=3):
    """Whether `solution` answers the asks alone, and leaves a Jordan net nothing to guess."""
    x = data(values)
    y, asks = solution(x, values), x == values + 1
    answers = np.array_equal(y[asks], demo.on_demand(x, values)[asks])
    return answers and (y[~asks] >= values).all() and demo.floor(x, y) < 1e-12


def test_the_exercise():
    assert solves(waits)
    assert not solves(demo.on_demand)  # its floor is above 0
    assert not solves(demo.always)  # answers unasked
    assert not solves(lambda x, values: waits((x + 1) % (values + 2), values))  # of other data


def test_a_jordan_net_learns_the_targets_of_the_exercise():
    tg.manual_seed(0)
    net, optimizer_steps = demo.Jordan(2, 4, 16), 200
    optimizer = tg.optim.Adam(net.parameters(), lr=1e-2)
    for seed in range(optimizer_steps):
        x = data(2, sequences=32, steps=8, seed=seed)
        loss = tg.cross_entropy(net(x, waits(x, 2)), waits(x, 2).ravel())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01
