"""A character language model by truncated BPTT, which must pass n-grams on the same text.

    h^t = cell(x^t, h^{t-1})        o^t = V h^t + c        E^t = -log softmax(o^t)[x^{t+1}]

The text is read down parallel streams, window by window.  From one window to the next the state is
carried but detached: its values reach back to the beginning, its gradients through one window.
The default text is the reference manual inside the interpreter; the first 90 % of it train, and the
rest is read after each epoch: the net ends with the weights that were best there.

EXERCISE: write `surprise(model, ids)` here: -log p(c) in nats of every character c of `ids` but the
first, given those before it, (N - 1,).  Print it under a text: where is the net surprised?
`pytest -k surprise` grades it.
"""

import importlib
import platform
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training
from demos._ngrams import witten_bell

LAYERS = {"rnn": tg.nn.RNN, "lstm": tg.nn.LSTM, "gru": tg.nn.GRU}
GRADIENT_STREAMS = 32  # to average the gradient norms over
EVALUATION_STREAM = 2_000  # characters; parallel streams save time, each begins without memory


# ---- the model ----


class CharLM(tg.nn.Module):
    """Logits of the next character at every step of a window, and the state after the last."""

    def __init__(self, vocab_size, hidden_size, cell, layers, dropout):
        self.embed = tg.nn.Embedding(vocab_size, hidden_size)
        self.recurrent = LAYERS[cell](hidden_size, hidden_size, layers, dropout=dropout)
        self.readout = tg.nn.Linear(hidden_size, vocab_size)
        self.dropout = tg.nn.Dropout(dropout)

    def forward(self, ids, state=None):
        """ids (T, B) and the state before them -> logits (T, B, V) and the state after them."""
        h, state = self.recurrent(self.embed(ids), state)  # h (T, B, H)
        return self.readout(self.dropout(h)), state


def hidden(state):
    """h, whether the state is h or an LSTM's (h, c)."""
    return state[0] if isinstance(state, tuple) else state


# ---- training ----


def windows(ids, streams, bptt):
    """Windows x, y of shape (bptt, streams), in reading order; y is x one step later."""
    length = (len(ids) - 1) // streams
    x, y = (part[: length * streams].reshape(streams, length).T for part in (ids[:-1], ids[1:]))
    return [(x[t : t + bptt], y[t : t + bptt]) for t in range(0, length, bptt)]


def train(model, ids, valid, vocabulary, args, run):
    """Train, and return the losses by column as they fell, epoch by epoch."""
    parts = windows(ids, args.batch_size, args.bptt)

    def loss_of(window, state):
        x, y = window
        logits, state = model(x, state)
        return tg.cross_entropy(logits, y), state

    def validate():
        return -evaluate(model, valid)

    settings = {"minutes": args.minutes, "clip": args.clip, "validate": validate, "carry": True}
    settings |= {"vocabulary": vocabulary}
    losses = training.fit(model, loss_of, lambda rng: parts, args, run, **settings)
    steps = range(len(parts), len(losses) + len(parts), len(parts))  # the last may be cut short
    characters = args.batch_size * args.bptt
    return {
        "characters read": [min(step, len(losses)) * characters for step in steps],
        "training": [np.mean(losses[step - len(parts) : step]) for step in steps],
        "validation": [-line["validation"] for line in run.epochs("training")],
    }


@tg.no_grad()
def evaluate(model, ids):
    """Nats per character of `ids[1:]`, the state carried through the whole of a stream."""
    model.eval()
    losses, sizes, state = [], [], None
    for x, y in windows(ids, streams=1 + len(ids) // EVALUATION_STREAM, bptt=100):
        logits, state = model(x, state)
        losses.append(tg.cross_entropy(logits, y).item())
        sizes.append(y.size)
    model.train()
    loss = np.average(losses, weights=sizes)
    kit.check_finite(loss)
    return loss


# ---- what came of it ----


def gradient_norms(model, ids, bptt):
    """||dE^T/dh^t|| for t = 1 .. T - 1, T = bptt: how far back the last error is felt."""
    model.eval()
    streams = min(GRADIENT_STREAMS, (len(ids) - 1) // bptt)
    x, y = windows(ids, streams, bptt)[0]
    states, state = [], None
    for t in range(bptt):
        logits, state = model(x[t : t + 1], state)
        states.append(hidden(state))  # (layers, streams, H)
        states[-1].retain_grad()
    E = tg.cross_entropy(logits[0], y[-1]) * streams  # the sum: each stream has its own norm
    E.backward()
    model.train()
    return [np.linalg.norm(h.grad.numpy(), axis=(0, 2)).mean() for h in states[:-1]]


@tg.no_grad()
def sample(model, prime, args):
    """The ids `prime`, and `args.sample` more that the model draws."""
    model.eval()
    state = model(np.reshape(prime[:-1], (-1, 1)))[1] if len(prime) > 1 else None

    def step(tokens, state):
        logits, state = model(tokens[None], turned(state))
        return tg.log_softmax(logits[0]), turned(state)

    settings = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p}
    rng = np.random.default_rng(args.seed)
    settings |= {"steps": args.sample, "rng": rng}
    (drawn,) = tg.decode.sample(step, turned(state), np.array(prime[-1:]), **settings)
    return [*prime, *drawn.tokens]


def turned(state):
    """A state with its axes of layers and of streams exchanged: a search has the streams first."""
    if isinstance(state, tuple):
        return tuple(turned(part) for part in state)
    return None if state is None else state.swapaxes(0, 1)


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
    unknown = "".join(sorted(set(text) - set(chars)))
    if unknown:
        raise kit.DataError(
            f"--prime: {kit.shown(unknown)}; expected: characters that the text has; leave them out"
        )
    return np.searchsorted(codes("".join(chars)), codes(text))


def codes(text):
    """The number that Unicode has for each character: an array needs less room than a list."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))


def read(args, run):
    """The characters of the text, its ids for training and for validation, the ids of the prime."""
    text = kit.read_text(args.data) if args.data else default_text()
    if args.quick:  # by characters, not by minutes, so that the same seed gives the same bytes
        text = text[:100_000]
    source = args.data or f"pydoc_data.topics of Python {platform.python_version()}"
    chars = sorted(set(text))
    ids = encoded(text, chars)
    cut = int(0.9 * len(ids))
    if cut <= args.batch_size * args.bptt or len(ids) - cut < args.bptt:
        raise kit.DataError(
            f"{source}: {len(ids):,} characters are too few for windows of --bptt {args.bptt} steps"
            f" in --batch-size {args.batch_size} streams; expected: {args.batch_size * args.bptt}"
            f" or more in nine tenths of it, {args.bptt} in the last; give more text or lower one"
        )
    run.say(f"text: {source}, {len(ids):,} characters, {len(chars)} different")
    return chars, ids[:cut], ids[cut:], encoded(args.prime or text[:20], chars)


def demo(args, run):
    chars, ids, valid, prime = read(args, run)
    orders = [-np.log(p).mean() for p in witten_bell(ids, valid, len(chars))]
    run.log(ngram_orders=orders)
    model = CharLM(len(chars), args.hidden_size, args.cell, args.layers, args.dropout)
    vocabulary = {"characters": chars}
    training.start_from(model, args, vocabulary)
    run.say(f"parameters: {sum(p.size for p in model.parameters()):,}")

    valid = np.concatenate([ids[-1:], valid])  # whose first character is to be predicted too
    norms = {"t": range(1, args.bptt)}
    norms["untrained"] = gradient_norms(model, valid, args.bptt)
    curve = train(model, ids, valid, vocabulary, args, run)
    norms["trained"] = gradient_norms(model, valid, args.bptt)

    levels = {f"{n}-gram": bar for n, bar in enumerate(orders, 1)}
    run.curves("loss", curve, "nats per character", levels)
    run.curves("gradient_norms", norms, "norm of dE/dh at step t", log_scale=True)
    sizes = {"cell": args.cell, "layers": args.layers, "hidden_size": args.hidden_size}
    training.save_model(run, "model", model, vocabulary, **sizes)
    loss = min(curve["validation"])
    print_verdicts(loss, orders)
    if args.sample:
        print(f"a sample at temperature {args.temperature}:")
        print("".join(chars[i] for i in sample(model, prime, args)))
    if args.quick or args.data:
        return {}
    return {"the net passes n-grams of every order": loss < min(orders)}


def main(argv=None):
    p = kit.parser("char_lm", __doc__)
    p.add_argument("--data", type=Path, help="a UTF-8 text to learn instead")
    p.add_argument("--cell", choices=LAYERS, default="gru", help="the recurrent cell")
    p.add_argument("--layers", type=kit.size, default=1, help="one on the other")
    p.add_argument("--hidden-size", type=kit.size, default=192, help="units of h")
    p.add_argument("--bptt", type=kit.length, default=64, help="steps of a window")
    kit.training_flags(p, epochs=5, batch_size=32, lr=4e-3)
    p.add_argument("--minutes", type=kit.positive(float), help="to train for, whatever --epochs is")
    kit.resume_flags(p)
    p.add_argument("--clip", type=kit.positive(float), default=1.0, help="largest gradient norm")
    p.add_argument("--dropout", type=kit.fraction, default=0.2, help="share of h dropped")
    p.add_argument(
        "--sample", type=kit.natural(), default=400, metavar="N", help="characters to sample"
    )
    p.add_argument("--temperature", type=kit.positive(float), default=0.7, help="of the sample")
    p.add_argument("--top-k", type=kit.positive(int), metavar="K", help="the K likeliest only")
    p.add_argument("--top-p", type=kit.share, metavar="P", help="the likeliest that sum to P")
    p.add_argument("--prime", help="text to continue, if not that of the data")
    args = p.parse_args(argv)
    if args.quick:
        args.epochs, args.hidden_size, args.sample = 1, 32, 40
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
