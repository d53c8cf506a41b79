"""The product of two square matrices in float32: what the machine can do at best."""

SYSTEMS = {"NumPy": ("_numpy", "Square"), "PyTorch": ("_torch", "Square")}
SKIPPED = {}
MEMORY = []
SMALL = {"n": 16}
CASES = [{"n": n} for n in (128, 512, 2048)]


def flops(n):
    """The floating-point operations of a product."""
    return 2 * n**3
