"""Demos of tinygrad_rnn, one idea a file: `python -m demos` lists them."""

import os

# The matrices here are small: a second BLAS thread makes char_lm 1.3 times as fast on idle cores,
# but several times as slow on busy ones, where every product waits for it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported, which reads it
