"""The CuPy path: one suite, run on whichever of four tiers is asked for; see ``tiers``."""
