"""Laws of the schedules of learning rates."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import schedules


@given(st.integers(1, 50), st.floats(0, 1))
def test_schedules_begin_and_end_where_they_say(steps, floor):
    for falling in (schedules.linear(steps, floor), schedules.cosine(steps, floor)):
        values = [falling(t) for t in range(steps + 3)]
        assert values[0] == pytest.approx(1) and values[steps:] == pytest.approx([floor] * 3)
        assert all(b <= a + 1e-12 for a, b in pairwise(values))
    rising = [schedules.warmup(steps)(t) for t in range(steps + 2)]
    assert rising[0] == 1 / steps and rising[steps - 1 :] == [1, 1, 1]
    assert [schedules.decay(4, 0.5)(t) for t in range(7)] == [1, 1, 1, 1, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("make", [schedules.warmup, schedules.linear, schedules.cosine])
def test_a_schedule_of_no_steps_is_refused(make):
    with pytest.raises(tg.SettingError, match="steps is 0"):
        make(0)
