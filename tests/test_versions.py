"""No graph goes back to a leaf that has changed since, whoever changed it.

That of the steps of each optimiser is in ``test_optim``.
"""

import numpy as np
import pytest

import tinygrad_rnn as tg


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
