"""Demos of tinygrad_rnn, one idea a file: `python -m demos` lists them."""

import os

# The matrices here are small: a second BLAS thread gains nothing on idle cores, and on busy ones
# waiting for it makes a step several times slower.  NumPy reads this when it is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
