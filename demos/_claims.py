"""The end of a demo: was what the slide claims seen?"""

from demos import _kit as kit


def main(demo, args):
    """The exit code of `demo(args, run)`, which returns its claims: 1 if one was not seen."""
    claims = {}
    code = kit.main(lambda args, run: claims.update(demo(args, run)), args)
    for claim, seen in claims.items():
        print(f"{'seen' if seen else 'NOT SEEN'}: {claim}")
    return code or int(not all(claims.values()))
