"""Demos of tinygrad_rnn, one idea a file: `python -m demos` lists them."""

import os
import sys

# The matrices here are small: a second BLAS thread makes char_lm 1.3 times as fast on idle cores,
# but several times as slow on busy ones, where every product waits for it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported, which reads it


def _quiet(kind, error, trace):
    """What Python does with an error that nothing caught: of Ctrl-C, one line and no traceback.

    Of output that nobody reads any more, as after `| head`, nothing.
    """
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    elif not issubclass(kind, BrokenPipeError):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _quiet  # from here on, for importing the rest takes a while
