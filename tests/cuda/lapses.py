"""The package's own code for a device, spoiled in one place, and the test here that has to notice.

A row is what is spoiled, the test, and which case of it.
"""

from tinygrad_rnn import (
    backend,
    clipping,
    decode,
    finite,
    functional,
    fused,
    linear,
    optim,
    rows,
)
from tinygrad_rnn import readout as readouts
from tinygrad_rnn.nn import attention
from tinygrad_rnn.registry import ROWS

from ..spoil import respelled
from . import test_costs, test_devices, test_layers, test_registry
from .test_devices import WRONG

CUPY = backend.CupyBackend
VALUES = test_registry.test_values_and_gradients_are_those_of_numpy
COPIES = test_registry.test_nothing_waits_and_nothing_but_indices_is_copied
COSTS = test_costs.test_a_training_step_costs_what_it_did
WAITS = test_costs.test_a_training_step_waits_for_nothing_and_takes_its_batch_along


def of(name, **more):
    """The row of the registry with that name."""
    (row,) = [row for row in ROWS if row.name == name]
    return {"row": row} | ({"dtype": "float32"} | more)


LAPSES = {
    "an index stays on the host": (
        respelled(CUPY.index, "found.append(self.asarray(part))", "found.append(part)"),
        COPIES,
        {"row": of("getitem")["row"]},
    ),
    "an index out of range wraps": (
        respelled(CUPY.index, 'np.broadcast_to(np.empty((), "V0"), sides)[index]', "sides"),
        test_devices.test_an_index_out_of_range_is_refused_as_on_the_host,
        {"case": next(iter(WRONG))},
    ),
    "entries that are named twice get one of the two": (
        respelled(
            CUPY.scatter_add,
            "self.fused(_add_rows)(rows, index, values.astype(out.dtype, copy=False))",
            "rows[index] += values",
        ),
        VALUES,
        of("scatter_add"),
    ),
    "what comes to the host stays where it is": (
        respelled(CUPY.to_host, "self.cupy.asnumpy(x)", "x"),
        test_devices.test_what_is_asked_of_a_tensor_on_a_device,
        {},
    ),
    "what goes to the device stays where it is": (
        respelled(CUPY.asarray, "self.cupy.asarray(values)", "values"),
        test_devices.test_tensors_are_made_where_it_is_said,
        {},
    ),
    "zeros are made on the host": (
        respelled(CUPY.zeros, "self.cupy.zeros", "np.zeros"),
        VALUES,
        of("scatter"),
    ),
    "rows of a structure are uploaded at each use": (
        respelled(CUPY.kept, "key not in self.uploaded", "True"),
        WAITS,
        {"name": "Tree-LSTM, fold"},
    ),
    "a kernel is not used": (
        respelled(
            fused._lstm_gates.operation.forward,
            "backend_of(a).fused(_lstm_gates_forward)(a, *cs)",
            "_lstm_gates_forward(a, *cs)",
        ),
        COSTS,
        {"name": "LSTM cell"},
    ),
    "rows stay on the host": (
        respelled(
            rows._there,
            'backend_of(getattr(array, "array", array)).kept(rows)',
            "rows",
        ),
        WAITS,
        {"name": "Tree-LSTM, fold"},
    ),
    "rows are looked at through NumPy": (
        respelled(linear.entries, "return x[index]", "return np.asarray(x)[index]"),
        VALUES,
        of("getitem"),
    ),
    "a mask of dropout stays on the host": (
        respelled(
            functional.dropout,
            'backend_of(getattr(x, "array", x)).asarray(kept.astype(x.dtype) / (1 - rate))',
            "(kept.astype(x.dtype) / (1 - rate))",
        ),
        VALUES,
        of("dropout"),
    ),
    "a mask of attention stays on the host": (
        respelled(
            attention.Attention.memory,
            "backend.asarray(np.arange(shape[1]) < steps[:, None])",
            "np.arange(shape[1]) < steps[:, None]",
        ),
        test_layers.test_attention_with_and_without_a_mask,
        {"name": "additive", "lengths": [1, 3]},
    ),
    "clipping asks whether there is anything to clip": (
        respelled(
            clipping._clip_on_device,
            "del gs",
            "del gs\n    if norm <= max_norm:\n        return Tensor(norm)\n    del squares",
        ),
        WAITS,
        {"name": "LSTM"},
    ),
    "a flag is read after every step": (
        respelled(finite.Guard.is_due, "len(self.before) >= self.patience", "True"),
        WAITS,
        {"name": "LSTM"},
    ),
    "a step is made by its formula": (
        respelled(optim.Optimizer._move_together, 'hasattr(self.move, "in_c")', "False"),
        COSTS,
        {"name": "LSTM"},
    ),
    "a search reads its scores twice": (
        respelled(
            decode._Model.__call__,
            "log_probs = backend_of(log_probs).to_host(log_probs)",
            "log_probs = [backend_of(log_probs).to_host(log_probs) for _ in range(2)][0]",
        ),
        test_layers.test_a_step_of_a_search_waits_once,
        {"beam": 1},
    ),
    "ids of a loss go to the device twice": (
        respelled(
            readouts.softmax_losses,
            "on_device(ids.copy(), device)",
            'on_device(on_device(ids, "cpu").copy(), device)',
        ),
        WAITS,
        {"name": "LSTM"},
    ),
}
