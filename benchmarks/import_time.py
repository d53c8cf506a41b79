"""What an import takes in a fresh process, the interpreter's own start aside; bytecode is there.

NumPy's own import is part of that of all others.
"""

SYSTEMS = {
    name: ("_imports", "Import", {"module": module})
    for name, module in {
        "tinygrad_rnn": "tinygrad_rnn",
        "NumPy": "numpy",
        "PyTorch": "torch",
        "JAX": "jax",
        "HIPS autograd": "autograd.numpy",
        "MyGrad": "mygrad",
        "micrograd": "micrograd.engine",
        "tinygrad": "tinygrad",
        "DyNet": "dynet",
    }.items()
}
SKIPPED = {}
MEMORY = []
SMALL = {}
CASES = [{"what": "import"}]
