"""Training steps of a BiLSTM tagger over sentences, and an LSTM cell in a loop, beside peers.

The tagger embeds the words of a batch of sentences of any lengths, runs an LSTM in both directions
and tells the tag of every token: forward, backward and plain SGD.  The loop calls a cell that is
written in plain operations, the same ones in each library, for each step of a sequence: forward and
backward.  First, all programs must agree in the loss, in the norm of every gradient and, if they
learn, in the loss after a step.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks import _sequence_data
from benchmarks._timing import interleaved, machine, print_table, spread
from benchmarks._workers import check_equal, sampler, started

SIZES = [(100, 128), (256, 256)]  # D, H of the tagger
SENTENCES, LR = 32, 0.1
T, B, WIDTHS = 64, 32, [128, 256]  # of the loop; D and H are the same
ROUNDS, A_ROUND = 20, 2  # rounds, and steps in each

TAGGERS = {
    "ours": ("_sequence_ours", "Tagger", {}),
    "PyTorch, packed": ("_sequence_torch", "Tagger", {}),
    "DyNet, autobatching": ("_sequence_dynet", "Tagger", {"autobatch": 1}),
    "JAX, padded": ("_sequence_jax", "Tagger", {}),
}
LOOPS = {
    "ours": ("_sequence_ours", "Composed", {}),
    "PyTorch": ("_sequence_torch", "Composed", {}),
    "ours, nn.LSTMCell": ("_sequence_ours", "LSTMCell", {}),
    "PyTorch, nn.LSTMCell": ("_sequence_torch", "LSTMCell", {}),
    "JAX, compiled scan": ("_sequence_jax", "Scan", {}),
}


def main(flags=()):
    """Print tokens a second, milliseconds, and ratios, and what they are to reach."""
    args = parser().parse_args(flags)
    rounds = 1 if args.quick else args.rounds
    print("sequences: a BiLSTM tagger and an LSTM cell in a loop, training steps in float32")
    print(machine())
    batches, V, K = _sequence_data.read(args.data, SENTENCES)
    lengths = [len(words) for batch in batches for words, _ in batch]
    print(
        f"{args.data or 'logical lines of the standard library'}: {len(batches)} batches of "
        f"{SENTENCES}, {np.mean(lengths):.1f} tokens a sentence, {V} words, {K} tags"
    )
    batches = batches[: A_ROUND * (rounds + 1)]
    for D, H in SIZES[: 1 if args.quick else None]:
        tagger(batches, D, H, _sequence_data.tagger(V, D, H, K), rounds)
    for width in WIDTHS[: 1 if args.quick else None]:
        loop(width, rounds)


def parser():
    """The flags."""
    p = argparse.ArgumentParser(
        "python -m benchmarks sequences", description=__doc__.splitlines()[0]
    )
    p.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="a file in CoNLL-U; without it, logical lines of the standard library",
    )
    p.add_argument("--rounds", type=int, default=ROUNDS, help=f"to take part in, {ROUNDS}")
    p.add_argument("--quick", action="store_true", help="only see that it works, in seconds")
    return p


def tagger(batches, D, H, arrays, rounds):
    """Print how many tokens a second the taggers learn from."""
    print(f"a tagger, D={D}, H={H}")
    seconds = times(TAGGERS, rounds, batches, arrays, LR, A_ROUND)
    of_round = [
        sum(
            len(words)
            for i in range(A_ROUND)
            for words, _ in batches[(n * A_ROUND + i) % len(batches)]
        )
        for n in range(1, rounds + 1)
    ]
    rows = [
        [name, f"{np.median(of_round / found):.0f}", spread(found / seconds["ours"])]
        for name, found in seconds.items()
    ]
    print_table(["", "tokens/s", "ours is faster"], rows)
    for name in list(TAGGERS)[1:3]:
        if name in seconds:
            reached = np.median(seconds[name] / seconds["ours"])
            print(f"target: at least as fast as {name}; reached: {reached:.2f} times")


def loop(width, rounds):
    """Print the milliseconds that loops over a cell take."""
    print(f"an LSTM cell in a loop, T={T}, B={B}, D=H={width}")
    seconds = times(LOOPS, rounds, *_sequence_data.loop(T, B, width, width), A_ROUND)
    rows = [
        [name, f"{1e3 * np.median(found) / A_ROUND:.1f}", spread(seconds["ours"] / found)]
        for name, found in seconds.items()
    ]
    print_table(["", "ms", "ours / this"], rows)
    if "PyTorch" in seconds:
        reached = np.median(seconds["ours"] / seconds["PyTorch"])
        print(f"target: at most 1 of PyTorch's time for the same formula; reached: {reached:.2f}")


def times(programs, rounds, *args):
    """The seconds of each round for each of the programs, which are first found to agree."""
    with started(programs, *args) as workers:
        check_equal(workers)
        return interleaved({name: sampler(w) for name, w in workers.items()}, rounds)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
