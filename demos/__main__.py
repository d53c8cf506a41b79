"""`python -m demos` lists the demos, `python -m demos NAME` runs one, `main` and `all` several.

`python -m demos fetch` downloads benchmark data for them.
"""

import argparse
import importlib
import sys
import time

from demos import _fetch as fetch
from demos import _kit as kit
from tinygrad_rnn.gradcheck import __main__ as gradcheck

MINUTES = {  # on two cores; in the order of the lecture
    "engine_on_one_page": 0.02,
    "word_vectors": 0.2,
    "word_lm": 1.3,
    "char_lm": 1.8,
    "rnn_vs_cnn": 0.4,
    "output_recurrence": 0.4,
    "teacher_forcing": 0.1,
    "bptt_by_hand": 0.02,
    "truncated_bptt": 0.6,
    "vanishing_gradients": 0.4,
    "two_sentences": 0.1,
    "pos_tagging": 1.1,
    "identifier_roles": 0.7,
    "encoder_decoder": 0.9,
    "translation": 1.4,
    "sequence_classification": 0.8,
    "captioning": 1.4,
    "design_patterns": 0.5,
    "parsing": 0.9,
    "expression_roles": 1.1,
    "recursive_nets": 1.5,
}
MAIN = ("engine_on_one_page", "bptt_by_hand", "char_lm", "expression_roles")  # `make demo`
STOPPED = (130, 143)  # the exit codes after Ctrl-C and SIGTERM, which are meant for all of them
WITHOUT_FLAGS = ("bptt_by_hand", "engine_on_one_page")  # they take seconds and write nothing


def demo(name):
    """The module of a demo."""
    return importlib.import_module(f"demos.{name}")


def listing():
    """The demos, one a line: its name, how long it takes, and what it shows."""
    lines = [
        f"  {name:<24}{minutes:>5} min  {demo(name).__doc__.splitlines()[0]}"
        for name, minutes in MINUTES.items()
    ]
    for several, what in {"main": MAIN, "all": MINUTES}.items():
        total = sum(MINUTES[name] for name in what)
        which = ", ".join(MAIN) if several == "main" else "all of these"
        lines.append(
            f"  {several:<24}{total:>5.1f} min  The table of gradient checks, then {which}."
        )
    lines.append(f"  {'fetch':<33}  Download benchmark data for --data; without a name: list them.")
    return "\n".join(lines)


def run(several, names, argv):
    """The exit code of the table of gradient checks and then these demos; 0 if all passed."""
    p = argparse.ArgumentParser(f"python -m demos {several}", description=run.__doc__)
    kit.common_flags(p)
    p.parse_args(argv)
    jobs = {"gradcheck": lambda: gradcheck.main([])}
    for name in names:
        own_flags = [] if name in WITHOUT_FLAGS else argv
        jobs[name] = lambda name=name, flags=own_flags: demo(name).main(flags)
    results = []
    for name, job in jobs.items():
        print(f"\n==== {name} ====", flush=True)
        start = time.monotonic()
        code = job()
        if code in STOPPED:
            return code
        results.append((name, code, time.monotonic() - start))
    print("\n==== what was shown ====")
    for name, code, seconds in results:
        print(f"  {name:<24}{'passed' if code == 0 else f'FAILED ({code})':<12}{seconds:6.1f} s")
    print("  loss curves, gradient norms, metrics and checkpoints are in runs/NAME")
    return max(code for _, code, _ in results)


def main(argv=None):
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(f"python -m demos NAME [flags]    (NAME --help explains them)\n\n{listing()}")
        return 0
    if name == "fetch":
        return fetch.main(rest)
    if name in ("main", "all"):
        return run(name, MAIN if name == "main" else MINUTES, rest)
    if name not in MINUTES:
        print(f"error: no demo {name!r}; there are:\n{listing()}", file=sys.stderr)
        return 2
    return demo(name).main(rest)


if __name__ == "__main__":
    raise SystemExit(main())
