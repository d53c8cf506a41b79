"""A recurrent net that predicts the next word (Mikolov et al. 2010), against n-grams.

    h^t = sigmoid(U x^t + W h^{t-1})        y^t = softmax(V h^t)        E^t = -log y^t[x^{t+1}]

x^t is a row of a table, one for each word; biases are left out here.  An n-gram knows the n - 1
words before; what h^{t-1} holds may go back to the beginning of the text.  Three models read the
same text, with the same words and the same split: Kneser-Ney n-grams, this net, and an LSTM in its
place.  The figure is the perplexity, exp of the mean of E over all words of the test part, the ends
of paragraphs among them: between how many equally likely words a model wavers.  What is chosen, the
order of the n-grams, the epoch, the shares in a mixture, is chosen on the validation part.

The nets are trained by truncated BPTT down parallel streams, by SGD at a full rate for some epochs
and then at one that falls epoch by epoch: Zaremba et al. 2014, whose two smaller models are
`--config small` and `--config medium`.  Their figures are for the Penn Treebank, which is not here:
`--data FOLDER` reads it.  The default text is the docstrings of the standard library.

EXERCISE: write `mixture(p, q)` here: the share w of `p` for which the product of w p + (1 - w) q is
largest, p and q being what two models gave the same words, (N,).  Begin at 1/2 and repeat: w is the
mean, over the words, of how probable it is that p was the model that spoke, w p / (w p + (1 - w) q)
(Jelinek and Mercer 1980).  `pytest -k mixture` grades it.
"""

import argparse
import ast
import math
import platform
import re
import sysconfig
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training
from demos._ngrams import kneser_ney
from demos._trees import STDLIB, python_files, syntax_tree
from demos.char_lm import windows

END = "<eos>"  # of a paragraph, or of a line of a treebank: a word like any other
PARTS = ("train", "valid", "test")
CELLS = ("sigmoid", "lstm")
ORDER = 5  # of the n-grams, at most
STREAMS = 20  # to validate in; the test is read in one
WINDOW = 50  # steps at once when nothing is trained


CONFIGS = {
    "slide": {"words": 3000, "cells": CELLS, "layers": 1, "hidden_size": 100, "bptt": 10}
    | {"batch_size": 20, "init": 0.1, "dropout": 0.2, "clip": 5.0}
    | {"lr": 1.0, "full_rate": 2, "decay": 1 / 2, "epochs": 4},
    "small": {"words": 10_000, "cells": ("lstm",), "layers": 2, "hidden_size": 200, "bptt": 20}
    | {"batch_size": 20, "init": 0.1, "dropout": 0.0, "clip": 5.0}
    | {"lr": 1.0, "full_rate": 4, "decay": 1 / 2, "epochs": 13},
    "medium": {"words": 10_000, "cells": ("lstm",), "layers": 2, "hidden_size": 650, "bptt": 35}
    | {"batch_size": 20, "init": 0.05, "dropout": 0.5, "clip": 5.0}
    | {"lr": 1.0, "full_rate": 6, "decay": 1 / 1.2, "epochs": 39},
}
SETTINGS = {  # each a flag that takes the place of the setting of --config
    "words": (kit.positive(int), "told apart at most, the commonest"),
    "layers": (kit.size, "of the net, one on the other"),
    "hidden_size": (kit.size, "units of h, and of a word's row"),
    "bptt": (kit.length, "steps of a window"),
    "batch_size": (kit.positive(int), "parallel streams"),
    "init": (kit.positive(float), "weights begin uniform between -INIT and INIT"),
    "dropout": (kit.fraction, "share dropped of x, of h, and between layers"),
    "lr": (kit.positive(float), "the rate of SGD at the start"),
    "full_rate": (kit.positive(int), "epochs before the rate falls"),
    "decay": (kit.positive(float), "its factor at each epoch from then on"),
    "epochs": (kit.positive(int), "times the text is read"),
    "clip": (kit.positive(float), "the largest norm of a gradient"),
}


# ---- the model ----


class WordLM(tg.nn.Module):
    """Logits of the next word, and the state, at every step of a window."""

    def __init__(self, words, cell, layers, hidden_size, dropout, tied=False):
        self.embed = tg.nn.Embedding(words, hidden_size)
        layer = tg.nn.LSTM if cell == "lstm" else tg.nn.RNN
        settings = {} if cell == "lstm" else {"nonlinearity": cell}
        sizes = hidden_size, hidden_size, layers
        self.recurrent = layer(*sizes, dropout=dropout, **settings)
        self.V = tg.nn.Linear(hidden_size, words)
        self.dropout = tg.nn.Dropout(dropout)  # never on W h: Zaremba et al. 2014
        if tied:  # a word is predicted where h is like its own row: Press and Wolf 2017
            self.V.weight = self.embed.weight

    def forward(self, ids, state=None):
        """ids (T, B) and the state before them -> logits (T, B, V) and the state after them."""
        h, state = self.recurrent(self.dropout(self.embed(ids)), state)  # h (T, B, H)
        return self.V(self.dropout(h)), state


def drawn(model, init):
    """The model with all its weights drawn anew, uniform in -init .. init."""
    draw = tg.default_rng().uniform
    model.load_state_dict(
        {name: draw(-init, init, w.shape) for name, w in model.named_parameters()}
    )
    return model


# ---- training ----


def rate(args):
    """The factor of the rate when a share of the training is done: it changes with the epoch."""
    factor = tg.schedules.decay(args.full_rate, args.decay)
    return lambda share: factor(math.floor(share * args.epochs + 1e-6))


def train(model, train_ids, valid, vocabulary, args, run, label):
    """Train the model; its perplexity on the validation part after each epoch.

    The published rate and clip are for E summed over the steps of a window.  The loss here is its
    mean over the steps, which people can read; its gradient is smaller by their number.
    """
    parts = windows(train_ids, args.batch_size, args.bptt)

    def loss_of(window, state):
        x, y = window
        logits, state = model(x, state)
        return tg.cross_entropy(logits, y) * (len(x) / args.bptt), state  # the last may be shorter

    def validate():
        score = perplexity(probabilities(model, train_ids[-1:], valid, STREAMS))
        run.say(f"{label}: validation perplexity {score:.1f}")
        return -score

    optimizer = tg.optim.SGD(model.parameters(), args.lr * args.bptt)
    settings = {"clip": args.clip / args.bptt, "rate": rate(args), "validate": validate}
    settings |= {"optimizer": optimizer, "carry": True, "vocabulary": vocabulary}
    training.fit(model, loss_of, lambda rng: parts, args, run, label, **settings)
    return [-line["validation"] for line in run.epochs(label)]


# ---- what came of it ----


@tg.no_grad()
def probabilities(model, before, ids, streams=1):
    """p of every id of `ids`, (N,), which go on after `before`; each stream is begun anew."""
    model.eval()
    x = np.concatenate([before, ids[:-1]])
    length = math.ceil(len(ids) / streams)
    x, y = (np.pad(part, (0, length * streams - len(ids))) for part in (x, ids))
    x, y = x.reshape(streams, length).T, y.reshape(streams, length).T
    found, state = [], None
    for t in range(0, length, WINDOW):
        logits, state = model(x[t : t + WINDOW], state)
        log_p = tg.take_along_axis(tg.log_softmax(logits), y[t : t + WINDOW, :, None], -1)
        found.append(np.exp(log_p.numpy()[..., 0].astype(float)))
    model.train()
    return np.concatenate(found).T.ravel()[: len(ids)]


def perplexity(p):
    """exp of the mean of -log p."""
    return float(np.exp(-np.log(p).mean()))


def mixed(p, q, valid):
    """The mixture w p + (1 - w) q, whose w, of eleven, is the best for the first `valid` words."""
    mixtures = [w * p + (1 - w) * q for w in np.linspace(0, 1, 11)]
    return min(mixtures, key=lambda mixture: perplexity(mixture[:valid]))


# ---- the text ----


def paragraphs(text):
    """The words of each paragraph, in small letters, signs apart, with END after the last."""
    parts = re.split(r"\n\s*\n", text.lower())
    return [re.findall(r"\w+|[^\w\s]", part) + [END] for part in parts if part.strip()]


def docstrings(modules):
    """The docstrings of some modules of the standard library, each once."""
    root = Path(sysconfig.get_path("stdlib"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = {}  # a set in the order of reading
    for file in [file for name in modules for file in python_files(root / name)]:
        for node in ast.walk(syntax_tree(file)):
            if isinstance(node, kinds):
                found[ast.get_docstring(node) or ""] = None
    if not found:
        raise kit.DataError(f"no Python sources in {root}: give a text by --data")
    return "\n\n".join(found)


def treebank(folder, part):
    """The words of ptb.PART.txt or PART.txt as they stand there, with END after each line."""
    for path in (folder / f"ptb.{part}.txt", folder / f"{part}.txt"):
        if path.exists():
            text = kit.read_text(path).removesuffix("\n")
            lines = [[*line.split(), END] for line in text.split("\n")]  # U+2028 ends none
            return [kit.UNKNOWN if word == "<unk>" else word for line in lines for word in line]
    raise kit.DataError(
        f"{folder}: no {part}.txt and no ptb.{part}.txt; expected: one for each of"
        f" {', '.join(PARTS)}; or name a single file by --data"
    )


def read(args):
    """The words of the three parts, and how often one must occur in the first to be told apart."""
    if args.data and args.data.is_dir():
        return [treebank(args.data, part) for part in PARTS], 1
    text = (
        kit.read_text(args.data) if args.data else docstrings(STDLIB[: 2 if args.quick else None])
    )
    words = [word for paragraph in paragraphs(text) for word in paragraph]
    cuts = len(words) * 8 // 10, len(words) * 9 // 10
    return [words[: cuts[0]], words[cuts[0] : cuts[1]], words[cuts[1] :]], 2


def encoded(parts, least, args):
    """The vocabulary of the first part, and the ids of each part."""
    vocabulary = kit.vocabulary([parts[0]], (kit.UNKNOWN,), least, args.words)
    for part, words, fewest in zip(PARTS, parts, (2 * args.batch_size, 1, 1), strict=True):
        if len(words) < fewest:
            raise kit.DataError(
                f"{args.data or 'the docstrings'}: {len(words)} words to {part} on;"
                f" expected: {fewest} or more; give more text"
            )
    return vocabulary, [vocabulary.encode(words) for words in parts]


# ---- the demo ----


def demo(args, run):
    vocabulary, (train_ids, valid, test) = encoded(*read(args), args)
    held, cut = np.concatenate([valid, test]), len(valid)
    source = args.data or f"docstrings of Python {platform.python_version()}"
    run.say(f"text: {source}; {len(train_ids):,} words to train, {cut:,} valid, {len(test):,} test")
    unknown = np.mean(test == vocabulary.ids[kit.UNKNOWN])
    run.say(f"{len(vocabulary):,} told apart; {unknown:.1%} of the test part are {kit.UNKNOWN}")

    grams = kneser_ney(train_ids, held, len(vocabulary), ORDER)
    orders = {f"{n}-grams": perplexity(p[:cut]) for n, p in enumerate(grams, 1)}
    best = min(orders, key=orders.get)
    found = {best: grams[list(orders).index(best)]}
    curve, words = {"epoch": range(1, args.epochs + 1)}, {"words": vocabulary.words}
    for cell in args.cells:
        sizes = args.layers, args.hidden_size, args.dropout, args.tied
        model = drawn(WordLM(len(vocabulary), cell, *sizes), args.init)
        training.start_from(model, args, words)
        run.say(f"{cell}: {sum(w.size for w in model.parameters()):,} parameters")
        curve[cell] = train(model, train_ids, valid, words, args, run, cell)
        found[cell] = probabilities(model, train_ids[-1:], held)
        found[f"{cell} and {best}"] = mixed(found[cell], found[best], cut)
        training.save_model(run, cell, model, words)
    levels = {name: figure for name, figure in orders.items() if name != "1-grams"}  # far above
    run.curves("perplexity", curve, "perplexity on the validation part", levels)
    figures = {name: (perplexity(p[:cut]), perplexity(p[cut:])) for name, p in found.items()}
    return report(figures, best, args, run)


def report(figures, best, args, run):
    """Print the perplexities; what the slide says, with whether it was seen."""
    print(f"{'perplexity':20}{'validation':>12}{'test':>10}")
    for name, (valid, test) in figures.items():
        print(f"{name:20}{valid:12.1f}{test:10.1f}")
        run.log(model=name, validation=valid, test=test)
    if args.quick or args.data:
        return {}
    pairs = [
        ("sigmoid and " + best, best),  # Mikolov's finding: each knows what the other does not
        ("lstm", best),
        ("lstm", "sigmoid"),
        ("lstm and " + best, "lstm"),
    ]
    return {
        f"perplexity on the test part: {a} below {b}": figures[a][1] < figures[b][1]
        for a, b in pairs
        if {a, b} <= figures.keys()
    }


def main(argv=None):
    p = kit.parser("word_lm", __doc__)
    p.add_argument("--data", type=Path, help="a UTF-8 text, or a folder with train, valid, test")
    p.add_argument("--config", choices=CONFIGS, default="slide", help="where settings come from")
    p.add_argument("--tied", action="store_true", help="one table for words in and words out")
    kit.resume_flags(p)
    p.add_argument("--cells", nargs="+", choices=CELLS, default=argparse.SUPPRESS, help="the nets")
    for name, (kind, what) in SETTINGS.items():
        flag = f"--{name.replace('_', '-')}"
        p.add_argument(flag, type=kind, default=argparse.SUPPRESS, help=what)
    args = p.parse_args(argv)
    given = vars(args) | ({"hidden_size": 16, "epochs": 2} if args.quick else {})
    args = argparse.Namespace(**(CONFIGS[args.config] | given))
    if args.init_from and len(args.cells) > 1:
        p.error("--init-from: the weights are those of one net, so name one by --cells")
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
