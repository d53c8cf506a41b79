"""A character language model by truncated BPTT, which must pass n-grams on the same text.

    h^t = cell(x^t, h^{t-1})        o^t = V h^t + c        E^t = -log softmax(o^t)[x^{t+1}]

The text is read down parallel streams, window by window.  From one window to the next the state is
carried but detached: its values reach back to the beginning, its gradients through one window.
The default text is the reference manual inside the interpreter; the first 90 % of it train.
"""

import importlib
import itertools
import platform
import time
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos._ngrams import witten_bell

CELLS = {"rnn": tg.nn.RNNCell, "lstm": tg.nn.LSTMCell, "gru": tg.nn.GRUCell}
REPORTS = 10  # how often a training run looks at the validation text
GRADIENT_STREAMS = 32  # to average the gradient norms over
EVALUATION_STREAM = 2_000  # characters; parallel streams save time, each begins without memory


# ---- the model ----


class CharLM(tg.nn.Module):
    """Logits of the next character, and the state, at every step of a window."""

    def __init__(self, vocab_size, hidden_size, cell, dropout):
        self.embed = tg.nn.Embedding(vocab_size, hidden_size)
        self.cell = CELLS[cell](hidden_size, hidden_size)
        self.readout = tg.nn.Linear(hidden_size, vocab_size)
        self.dropout = tg.nn.Dropout(dropout)

    def forward(self, ids, state=None):
        """ids (T, B) and the state before them -> logits (T, B, V) and the T states after them."""
        states = []
        for x in tg.unstack(self.embed(ids), axis=0):  # x (B, H)
            state = self.cell(x, state)
            states.append(state)
        h = tg.stack([hidden(state) for state in states], axis=0)  # (T, B, H)
        return self.readout(self.dropout(h)), states


def hidden(state):
    """h, whether the state is h or an LSTM's (h, c)."""
    return state[0] if isinstance(state, tuple) else state


def detached(state):
    """The values of a state without its history."""
    return tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()


def error(logits, y):
    """The mean of -log softmax(logits)[y] over all steps and streams: nats per character."""
    return tg.cross_entropy(logits.reshape((-1, logits.shape[-1])), y.reshape(-1))


# ---- training ----


def windows(ids, streams, bptt):
    """Windows x, y of shape (bptt, streams), in reading order; y is x one character later."""
    length = (len(ids) - 1) // streams
    x, y = (part[: length * streams].reshape(streams, length).T for part in (ids[:-1], ids[1:]))
    for t in range(0, length, bptt):
        yield x[t : t + bptt], y[t : t + bptt]


def train(model, ids, args, seconds):
    """Truncated BPTT; yields after each step the share of `seconds` that is used and the loss."""
    parameters = list(model.parameters())
    optimizer = tg.optim.Adam(parameters, lr=args.lr)
    start, state = time.monotonic(), None
    for x, y in itertools.cycle(windows(ids, args.batch_size, args.bptt)):
        logits, states = model(x, state)
        state = detached(states[-1])  # the truncation
        loss = error(logits, y)
        kit.check_finite(loss.item())
        optimizer.zero_grad()
        loss.backward()
        tg.optim.clip_grad_norm_(parameters, args.clip)
        used = (time.monotonic() - start) / seconds
        optimizer.lr = args.lr * max(0.0, 1 - used)  # a straight line down to 0
        optimizer.step()
        yield used, loss.item()
        if used >= 1:
            return


@tg.no_grad()
def evaluate(model, ids):
    """Nats per character of `ids[1:]`, the state carried through the whole text."""
    model.eval()
    losses, sizes, state = [], [], None
    for x, y in windows(ids, streams=1 + len(ids) // EVALUATION_STREAM, bptt=100):
        logits, states = model(x, state)
        state = states[-1]
        losses.append(error(logits, y).item())
        sizes.append(y.size)
    model.train()
    loss = np.average(losses, weights=sizes)
    kit.check_finite(loss)
    return loss


def training_curve(model, ids, valid, args, run):
    """Train, and return the losses by column as they fell."""
    curve = {"characters read": [], "training": [], "validation": []}
    losses = []
    with kit.Progress(run, "training") as progress:
        for step, (used, loss) in enumerate(train(model, ids, args, 60 * args.minutes), 1):
            losses.append(loss)
            progress.reached(used, f"{np.mean(losses):.3f} nats per character")
            if used * REPORTS >= 1 + len(curve["training"]):
                point = step * args.batch_size * args.bptt, np.mean(losses), evaluate(model, valid)
                for column, figure in zip(curve, point, strict=True):
                    curve[column].append(figure)
                run.log(step=step, **dict(zip(curve, point, strict=True)))
                losses.clear()
    return curve


# ---- what came of it ----


def gradient_norms(model, ids, bptt):
    """||dE^T/dh^t|| for t = 1 .. T = bptt: how far back the error of the last step is felt."""
    model.eval()
    streams = min(GRADIENT_STREAMS, (len(ids) - 1) // bptt)
    x, y = next(windows(ids, streams, bptt))
    logits, states = model(x)
    for state in states:
        hidden(state).retain_grad()
    E = error(logits[-1], y[-1]) * y.shape[1]  # the sum over the streams: each has its own norm
    E.backward()
    model.train()
    return [np.linalg.norm(hidden(state).grad.numpy(), axis=1).mean() for state in states]


@tg.no_grad()
def sample(model, prime, length, temperature, rng):
    """The ids `prime` and `length` more, each drawn from softmax(logits / temperature)."""
    model.eval()
    ids, x, state = list(prime), prime, None
    for _ in range(length):
        logits, states = model(np.reshape(x, (-1, 1)), state)  # all of `prime`, then one by one
        state = states[-1]
        p = tg.softmax(logits[-1, 0] / temperature).numpy().astype(float)
        x = rng.choice(len(p), p=p / p.sum())
        ids.append(x)
    return ids


def print_verdicts(loss, orders):
    """Print which orders of n-grams the net passed."""
    print(f"validation: {loss:.3f} nats per character ({loss / np.log(2):.3f} bits)")
    for n, bar in enumerate(orders, 1):
        verdict = f"passed by {bar - loss:.3f}" if loss < bar else f"missed by {loss - bar:.3f}"
        print(f"  {n}-gram, Witten-Bell: {bar:.3f}  {verdict}")


# ---- the demo ----


def default_text():
    """The reference manual that the interpreter carries for its `help()`."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise kit.DataError("this Python has no pydoc_data.topics: give a text by --data") from None
    return "\n\n".join(topics[name] for name in sorted(topics))


def encoded(text, chars):
    """The ids of the characters of `text`; `chars` is sorted."""
    unknown = set(text) - set(chars)
    if unknown:
        raise kit.DataError(f"--prime: the text does not have {', '.join(sorted(unknown))}")
    return np.searchsorted(chars, list(text))


def read(args, run):
    """The characters of the text, its ids for training and for validation, the ids of the prime."""
    text = kit.read_text(args.data) if args.data else default_text()
    chars = sorted(set(text))
    ids = encoded(text, chars)
    cut = int(0.9 * len(ids))
    if cut <= args.batch_size * args.bptt or len(ids) - cut < args.bptt:
        raise kit.DataError(
            f"{len(ids):,} characters are too few for windows of --bptt {args.bptt} steps in "
            f"--batch-size {args.batch_size} streams"
        )
    source = args.data or f"pydoc_data.topics of Python {platform.python_version()}"
    run.say(f"text: {source}, {len(ids):,} characters, {len(chars)} different")
    return chars, ids[:cut], ids[cut:], encoded(args.prime or text[:20], chars)


def demo(args, run):
    chars, ids, valid, prime = read(args, run)
    orders = witten_bell(ids, valid, len(chars))
    run.log(ngram_orders=orders)
    model = CharLM(len(chars), args.hidden_size, args.cell, args.dropout)
    run.say(f"parameters: {sum(p.size for p in model.parameters()):,}")

    valid = np.concatenate([ids[-1:], valid])  # whose first character is to be predicted too
    norms = {"t": range(1, args.bptt + 1)}
    norms["untrained"] = gradient_norms(model, valid, args.bptt)
    curve = training_curve(model, ids, valid, args, run)
    norms["trained"] = gradient_norms(model, valid, args.bptt)

    levels = {f"{n}-gram": bar for n, bar in enumerate(orders, 1)}
    run.curves("loss", curve, "nats per character", levels)
    run.curves("gradient_norms", norms, "norm of dE/dh at step t", log_scale=True)
    metadata = {"chars": "".join(chars), "cell": args.cell, "hidden_size": args.hidden_size}
    tg.save(run.path("model.npz"), model.state_dict(), metadata)
    print_verdicts(curve["validation"][-1], orders)
    if args.sample:
        rng = np.random.default_rng(args.seed)
        drawn = sample(model, prime, args.sample, args.temperature, rng)
        print(f"a sample at temperature {args.temperature}:")
        print("".join(chars[i] for i in drawn))


def main(argv=None):
    p = kit.parser("char_lm", __doc__)
    p.add_argument("--data", type=Path, help="a UTF-8 text to learn instead")
    p.add_argument("--cell", choices=CELLS, default="gru", help="the recurrent cell")
    p.add_argument("--hidden-size", type=kit.positive(int), default=192, help="units of h")
    p.add_argument("--bptt", type=kit.positive(int), default=64, help="steps of a window")
    p.add_argument("--batch-size", type=kit.positive(int), default=32, help="parallel streams")
    p.add_argument("--lr", type=kit.positive(float), default=4e-3, help="Adam's rate at the start")
    p.add_argument("--clip", type=kit.positive(float), default=1.0, help="largest gradient norm")
    p.add_argument("--dropout", type=kit.fraction, default=0.2, help="share of h dropped")
    p.add_argument("--minutes", type=kit.positive(float), default=1.25, help="to train for")
    p.add_argument(
        "--sample", type=kit.natural, default=400, metavar="N", help="characters to sample"
    )
    p.add_argument("--temperature", type=kit.positive(float), default=0.7, help="of the sample")
    p.add_argument("--prime", help="text to continue, if not that of the data")
    args = p.parse_args(argv)
    if args.quick:
        args.minutes, args.hidden_size, args.sample = 0.03, 32, 40
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
