"""Both ways give one gradient, the errors are those of the formulas, and choices are fed back."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import teacher_forcing as demo


def test_all_claims_are_seen(tmp_path, capsys):
    assert demo.main(["--quick", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("seen: ") == 5 and "NOT SEEN" not in out
    for name in ("speed", "wrong"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = (tmp_path / "wrong.csv").read_text().splitlines()
    assert len(rows) == 1 + demo.PIECES and rows[-1].startswith("100,")


def test_without_learning_the_claims_are_not_seen(tmp_path, capsys):
    flags = ["--steps", "1", "--lr", "1e-9", "--quiet", "--no-plot", "--out", str(tmp_path)]
    assert demo.main(flags) == 1
    assert "NOT SEEN: on its own" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--classes", "1"], ["--test-length", "1"]])
def test_a_task_with_nothing_to_follow_is_refused(flags, tmp_path, capsys):
    assert demo.main(["--quiet", "--no-plot", "--out", str(tmp_path), *flags]) == 1
    assert capsys.readouterr().err.startswith("error: nothing to follow")


@pytest.mark.parametrize("flags", [["--classes", "0"], ["--lr", "inf"], ["--steps", "x"]])
def test_wrong_flags_are_refused(flags, tmp_path):
    with pytest.raises(SystemExit) as stop:
        demo.main(["--out", str(tmp_path), *flags])
    assert stop.value.code == 2


# ---- the task ----


def test_states_stay_and_are_seen_as_often_as_is_said():
    x, y, before = demo.sequences(500, 100, 4, np.random.default_rng(0))
    np.testing.assert_array_equal(y[:, :-1], before[:, 1:])
    assert (y != before).mean() == pytest.approx(0.05 * 0.75, abs=3e-3)
    assert (x != y).mean() == pytest.approx(0.4 * 0.75, abs=5e-3)
    assert (y[:, 29] != before[:, 0]).mean() == pytest.approx((1 - 0.95**30) * 0.75, abs=0.05)


def test_the_filter_is_a_sum_over_all_paths():
    """p(y^t | x^1..t, y^0) by brute force over the states in between."""
    x, _, before = demo.sequences(6, 4, 3, np.random.default_rng(1))

    def p(same, share):
        return share * same + (1 - share) / 3

    for b in range(len(x)):
        for t in range(1, 5):
            total = np.zeros(3)
            for path in itertools.product(range(3), repeat=t):
                states = [before[b, 0], *path]
                total[path[-1]] += np.prod(
                    [
                        p(states[i + 1] == states[i], 0.95) * p(states[i + 1] == x[b, i], 0.6)
                        for i in range(t)
                    ]
                )
            assert demo.bayes_filter(x[b : b + 1, :t], before[b, :1], 3)[0, -1] == total.argmax()


# ---- the net ----


def small():
    tg.manual_seed(0)
    return tg.nn.JordanCell(3, 5, 3), demo.sequences(4, 7, 3, np.random.default_rng(2))


def test_both_ways_give_the_same_gradients_and_those_of_numpy():
    cell, (x, y, before) = small()
    for name, weight in cell.named_parameters():
        setattr(cell, name, tg.tensor(weight.numpy(), dtype=np.float64, requires_grad=True))
    one, other = (
        demo.gradients(cell, way, x, y, before) for way in (demo.in_parallel, demo.step_by_step)
    )
    for name, w in cell.named_parameters():
        assert one[name].dtype == np.float64
        np.testing.assert_allclose(one[name], other[name], rtol=1e-10, atol=1e-15)
        losses = []
        for moved in (1e-6, -2e-6):
            w.array.flat[0] += moved
            losses.append(by_hand(cell, x, y, before))
        slope = (losses[0] - losses[1]) / 2e-6
        w.array.flat[0] += 1e-6
        assert one[name].flat[0] == pytest.approx(slope, rel=1e-5, abs=1e-9)


def by_hand(cell, x, y, before):
    """The mean error, step by step in NumPy."""
    w = {name: p.array for name, p in cell.named_parameters()}
    total = 0.0
    for b, t in np.ndindex(x.shape):
        a = w["weight_ih"][:, x[b, t]] + w["weight_oh"][:, before[b, t]] + w["bias_ih"]
        o = w["weight_ho"] @ np.tanh(a) + w["bias_ho"]
        total -= o[y[b, t]] - np.log(np.exp(o).sum())
    return total / x.size


def test_fed_in_are_targets_where_forced_and_choices_elsewhere():
    cell, (x, _, before) = small()
    forced = np.random.default_rng(3).random(x.shape) < 0.5
    fed, chosen = demo.on_its_own(cell, x, before, forced)
    np.testing.assert_array_equal(fed[:, 0], before[:, 0])
    expected = np.where(forced[:, 1:], before[:, 1:], chosen[:, :-1])
    np.testing.assert_array_equal(fed[:, 1:], expected)
    np.testing.assert_array_equal(chosen, demo.in_parallel(cell, x, fed).argmax(axis=-1))


def test_the_schedule_falls_from_1_to_0():
    shares = [demo.scheduled(done) for done in np.linspace(0, 1, 21)]
    assert shares[0] == 1 and shares[-1] == 0 and shares == sorted(shares, reverse=True)


# ---- the exercise ----


def run_length(wrong):
    """A solution: a run begins where a step is wrong and the one before is not."""
    begins = wrong.copy()
    begins[:, 1:] &= ~wrong[:, :-1]
    return wrong.sum() / begins.sum() if begins.any() else 0.0


def brute_force(wrong):
    runs = [len([*run]) for row in wrong for bad, run in itertools.groupby(row) if bad]
    return sum(runs) / len(runs) if runs else 0.0


@given(st.integers(1, 5), st.integers(1, 9), st.data())
def test_the_exercise(rows, length, data):
    flags = data.draw(st.lists(st.booleans(), min_size=rows * length, max_size=rows * length))
    wrong = np.array(flags).reshape(rows, length)
    assert run_length(wrong) == pytest.approx(brute_force(wrong))


def test_a_net_that_only_repeats_itself_makes_mistakes_that_last():
    _, y, before = demo.sequences(200, 100, 4, np.random.default_rng(4))
    assert run_length(y != before) < 2
    assert run_length(y != before[:, :1]) > 10
