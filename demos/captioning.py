"""Captions of pictures: one input to many outputs, in both forms, and why y^{t-1} is an input.

A letter is drawn, its Unicode name is to be said, such as LATIN SMALL LETTER O WITH HORN; no letter
of the test was met in training, so a name has to be put together from known words.  A convolutional
net makes v of the picture, an LSTM writes the words y^1, y^2, ... and the end:

    same input at each step     h^t = LSTM(U v + R y^{t-1} + W h^{t-1})    h^0 = 0
    input as initial state      h^t = LSTM(      R y^{t-1} + W h^{t-1})    h^0 = tanh(P v)
    both                        y^t ~ softmax(V h^t + c)

(U, R and W give the four gates; c^0 is P' v.)  "Output typically conditioned on previous outputs.
Why?"  Without y^{t-1} nothing tells the net which words it has chosen, so they are independent
given the picture.  A, ALPHA and the Cyrillic A are one picture with three names, and GREEK CAPITAL
LETTER A, which there is not, is then more probable than GREEK CAPITAL LETTER ALPHA.  Nor can one
word help with the next where the picture is hard to read.  The same nets are trained with y^{t-1}
and with the word before the first in its place, always.  Told of each, for letters never met:

    word-F1     2 * words shared / (words said + words of the right name), mean over the pictures
    exact       the share of pictures whose own name is said
    fits        the share whose own name is said, or that of another letter that looks the same
    a name      the share of captions that are the name of any letter, right or not
    nats        - ln p(right name | picture), mean
    sampled     the share of captions sampled from p(y | picture), of training pictures with several
                names, that are one of these

The nearest neighbour says the name of the training picture with the least squared distance.  The
scores of single captions, word-F1 and exact, need not gain by y^{t-1}: a net that knows which words
go together also trusts the names that it has met, and these letters have others.

    python -m demos.captioning                                         three fonts
    python -m demos.captioning --fonts 12 --epochs 10 --dropout 0.2    all, in 5 minutes

--data takes a folder of fonts (.ttf, .otf), or an .npz file: `images`, uint8 (N, height, width) or
(N, height, width, channels); `captions`, N strings of words; if you like `parts`, N times "train",
"dev" or "test", else equal captions are put in one of them by hash.

EXERCISE: how often can a net without y^{t-1} sample a name of a picture that has several?  Write
`independent(names)` here: given the names, tuples of words that are equally frequent, the
probability that independent words, each with its frequency at its place among the names that are
that long (the end is a word too), make one of them.  For A it is 5/9.
`pytest -k independent` grades it.
"""

import collections
import hashlib
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training
from demos._glyphs import gallery, read_captioned

END = 0  # the id of the end of a caption, which also stands before its first word
NO_WORD = -1
WINDOW, CHANNELS = 3, (16, 32, 64)  # of the convolutions
EACH_STEP, INITIAL_STATE = "each step", "initial state"
NETS = {  # where the picture goes in, whether y^{t-1} does
    "each step, with y": (EACH_STEP, True),
    "each step, without y": (EACH_STEP, False),
    "initial state, with y": (INITIAL_STATE, True),
    "initial state, without y": (INITIAL_STATE, False),
}
WHY = {  # +1: the more the better
    "a name": (1, "more captions are names"),
    "nats": (-1, "right names are more probable"),
    "sampled": (1, "more captions sampled for a picture with several names are one of them"),
}
NEIGHBOUR = "nearest neighbour"
STEPS = 20  # words of a caption, the end counted, at most
PICKED, SAMPLES = 300, 5  # training pictures with several names, captions sampled for each
SHOWN = 24  # pictures in the gallery


# ---- the model ----


def windows(x):
    """Every second window of (B, H, W, C), both ways: (B, ceil(H/2), ceil(W/2), WINDOW^2 C)."""
    height, width = x.shape[1:3]
    x = tg.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = [(i, j) for i in range(WINDOW) for j in range(WINDOW)]
    return tg.concatenate([x[:, i : i + height : 2, j : j + width : 2] for i, j in places], -1)


class Captioner(tg.nn.Module):
    """Logits of the next word of a picture's caption at every step."""

    def __init__(self, shape, words, size, form, conditioned, dropout):
        self.form, self.conditioned = form, conditioned
        height, width, channels = shape
        self.convolutions = []
        for filters in CHANNELS:
            layer = tg.nn.Linear(WINDOW**2 * channels, filters)
            layer.weight.array[...] *= 6**0.5  # of the size for relu (He et al. 2015)
            self.convolutions.append(layer)
            height, width, channels = -(-height // 2), -(-width // 2), filters
        self.dense = tg.nn.Linear(height * width * channels, size)
        self.normalise = tg.nn.LayerNorm(size)
        self.embed = tg.nn.Embedding(words, size)
        inputs = 2 * size if form == EACH_STEP else size
        self.lstm = tg.nn.LSTM(inputs, size, batch_first=True, forget_bias=1.0)
        self.P = tg.nn.Linear(size, 2 * size) if form == INITIAL_STATE else None
        self.V = tg.nn.Linear(size, words)
        self.dropout = tg.nn.Dropout(dropout)

    def encode(self, images):
        """What the decoder gets to know of the pictures, v (B, size)."""
        x = tg.tensor(images)
        for convolution in self.convolutions:
            x = tg.relu(convolution(windows(x)))
        return self.normalise(self.dense(self.dropout(tg.reshape(x, (len(images), -1)))))

    def first_state(self, v):
        """The state (h^0, c^0), (B, size) each."""
        if self.form == EACH_STEP:
            return (tg.tensor(np.zeros(v.shape, np.float32)),) * 2
        h, c = tg.split(self.P(v), 2, axis=-1)
        return tg.tanh(h), c

    def decode(self, y, v, state, lengths=None):
        """What follows each of the words y (B, T): logits (B, T, words), and the state."""
        x = self.embed(y if self.conditioned else np.full_like(y, END))
        if self.form == EACH_STEP:
            v = tg.broadcast_to(v[:, None], (*y.shape, v.shape[1]))
            x = tg.concatenate([x, v], -1)
        h, (h_last, c_last) = self.lstm(x, tuple(part[None] for part in state), lengths)
        return self.V(self.dropout(h)), (h_last[0], c_last[0])

    def step(self, words, state):
        """The step function of `tg.decode`: of a state each caption has a row."""
        v, *state = state
        logits, state = self.decode(words[:, None], v, state)
        return tg.log_softmax(logits[:, 0]), (v, *state)


# ---- training ----


class Pictures:
    """Pictures with their captions, as words and as ids, of one part of the data."""

    def __init__(self, images, captions, vocabulary):
        self.images, self.captions = images, captions
        self.ids = [vocabulary.encode(caption) for caption in captions]
        self.lengths = np.array([1 + len(ids) for ids in self.ids])  # the end is a word too


def loss_of(model, images, ids):
    """- ln p(y^t | picture, y^1 .. y^{t-1}), the mean over all words, ends counted."""
    y, lengths = kit.padded([[END, *caption] for caption in ids], END)
    targets, _ = kit.padded([[*caption, END] for caption in ids], NO_WORD)
    v = model.encode(images)
    logits, _ = model.decode(y, v, model.first_state(v), lengths)
    return tg.cross_entropy(logits, targets, ignore_index=NO_WORD)


@tg.no_grad()
def nats(model, pictures):
    """- ln p(caption | picture), the mean over the pictures."""
    model.eval()
    total = 0.0
    for part in np.array_split(np.arange(len(pictures.ids)), -(-len(pictures.ids) // 200)):
        mean = loss_of(model, pictures.images[part], [pictures.ids[i] for i in part])
        total += mean.item() * pictures.lengths[part].sum()
    model.train()
    return total / len(pictures.ids)


# ---- what a net says ----


@tg.no_grad()
def said(model, images, vocabulary, decode=tg.decode.greedy, **settings):
    """The caption of each picture, a tuple of words, that `decode` finds."""
    model.eval()
    captions = []
    for part in np.array_split(images, -(-len(images) // 200)):
        v = model.encode(part)
        state, start = (v, *model.first_state(v)), np.full(len(part), END)
        for found in decode(model.step, state, start, steps=STEPS, end=END, **settings):
            best = found[0] if isinstance(found, list) else found
            captions.append(tuple(vocabulary.words[i] for i in best.tokens))
    model.train()
    return captions


def word_f1(caption, right):
    """2 * words shared / words of both."""
    shared = collections.Counter(caption) & collections.Counter(right)
    return 2 * shared.total() / (len(caption) + len(right))


def mean_f1(captions, right):
    """The mean word-F1 of captions."""
    return np.mean([word_f1(*pair) for pair in zip(captions, right, strict=True)])


def scores_of(captions, test, looks, names):
    """The scores, by name, of captions of the test pictures."""
    fit = [caption in looks[image.tobytes()] for caption, image in zip(captions, test.images)]
    return {
        "word-F1": mean_f1(captions, test.captions),
        "exact": np.mean([a == b for a, b in zip(captions, test.captions, strict=True)]),
        "fits": np.mean(fit),
        "a name": np.mean([caption in names for caption in captions]),
    }


def begun(captions, names, steps):
    """For each t the share of captions of which the first t words, or the end, begin a name."""
    beginnings = {(*name, "")[:t] for name in names for t in steps}
    return [np.mean([(*found, "")[:t] in beginnings for found in captions]) for t in steps]


def nearest(train, images):
    """The caption of the training picture with the least squared distance from each."""
    x, others = (a.reshape(len(a), -1) for a in (images, train.images))
    distances = (others**2).sum(axis=1) - 2 * x @ others.T  # but for what is the same for all
    return [train.captions[i] for i in distances.argmin(axis=1)]


def looks_of(parts):
    """{picture, as bytes: the set of its names} of all pictures."""
    looks = collections.defaultdict(set)
    for part in parts:
        for image, caption in zip(part.images, part.captions, strict=True):
            looks[image.tobytes()].add(caption)
    return looks


def with_several(pictures, most):
    """At most so many different pictures that have several names; the set of names of each."""
    looks = looks_of([pictures])
    chosen = [image for image, names in looks.items() if len(names) > 1]
    chosen = chosen[:: 1 + len(chosen) // most]
    images = np.frombuffer(b"".join(chosen), np.float32).reshape(-1, *pictures.images.shape[1:])
    return images, [looks[image] for image in chosen]


def share_sampled(model, images, names, vocabulary):
    """The share of captions sampled for each picture that are among its names."""
    if not names:
        return np.nan
    captions = said(model, np.repeat(images, SAMPLES, axis=0), vocabulary, tg.decode.sample)
    return np.mean([caption in names[i // SAMPLES] for i, caption in enumerate(captions)])


# ---- the demo ----


def read(args, run):
    """The vocabulary; the pictures to train on, to choose the epoch by, to test on; all names."""
    data = read_captioned(args.data, args.fonts)
    parts = [data.of(part) for part in ("train", "dev", "test")]
    vocabulary, names = kit.vocabulary(parts[0][1], ("<end>", kit.UNKNOWN)), set(data.captions)
    digest = hashlib.sha256(data.images.tobytes() + repr(data.captions).encode()).hexdigest()[:16]
    sizes = ", ".join(f"{len(captions):,}" for _, captions in parts)
    run.say(f"{sizes} pictures to train on, to choose the epoch, to test on, sha256 {digest}")
    run.say(f"{len(names):,} captions of {len(vocabulary):,} words")
    return vocabulary, [Pictures(*part, vocabulary) for part in parts], names


def trained(name, vocabulary, train, dev, args, run):
    """The net of that name, fitted to `train`, as it was after the epoch that was best on `dev`."""
    tg.manual_seed(args.seed)
    sizes = train.images.shape[1:], len(vocabulary), args.hidden_size
    model = Captioner(*sizes, *NETS[name], args.dropout)
    run.say(f"{name}: {sum(p.size for p in model.parameters()):,} parameters")

    def loss(batch):
        return loss_of(model, train.images[batch], [train.ids[i] for i in batch])

    def batches(rng):  # not sorted by length, which would teach one length after the other
        order = rng.permutation(len(train.ids))
        return np.array_split(order, -(-len(order) // args.batch_size))

    def validate():
        return mean_f1(said(model, dev.images, vocabulary), dev.captions)

    known = {"words": vocabulary.words}
    training.fit(model, loss, batches, args, run, name, validate=validate, vocabulary=known)
    return model


def demo(args, run):
    vocabulary, (train, dev, test), names = read(args, run)
    looks, (images, several) = looks_of((train, dev, test)), with_several(train, PICKED)
    shared = np.mean([len(looks[image.tobytes()]) > 1 for image in test.images])
    run.say(f"{shared:.1%} of the test pictures have several names, so none can be exact for all")
    captions, others = {NEIGHBOUR: nearest(train, test.images)}, {}
    for name in NETS:
        model = trained(name, vocabulary, train, dev, args, run)
        captions[name] = said(model, test.images, vocabulary)
        beam = f"{name}, beam of {args.beam}"
        captions[beam] = said(model, test.images, vocabulary, tg.decode.beam_search, beam=args.beam)
        sampled = share_sampled(model, images, several, vocabulary)
        others[name] = {"nats": nats(model, test), "sampled": sampled}
    scores = {
        name: scores_of(found, test, looks, names) | others.get(name, {})
        for name, found in captions.items()
    }
    for name, row in scores.items():
        run.log(name=name, **row)
    figures(captions, test, names, args, run)
    return report(scores, args)


def figures(captions, test, names, args, run):
    """Write the captions, draw some, and draw how many are, so far, the beginning of a name."""
    steps = range(1, 2 + max(map(len, names)))
    shares = {name: begun(captions[name], names, steps) for name in NETS}
    run.curves("begun", {"words written": steps} | shares, "share that begins a name")
    columns = {"right": test.captions} | captions
    run.table("captions", {name: [" ".join(c) for c in found] for name, found in columns.items()})
    shown = np.random.default_rng(args.seed).permutation(len(test.captions))[:SHOWN]
    told = {"right": ""} | {f"{EACH_STEP}, {way} y": f"{way} y: " for way in ("with", "without")}
    texts = [[a + " ".join(columns[name][i]) for name, a in told.items()] for i in shown]
    gallery(run, "captions", test.images[shown], texts)


def report(scores, args):
    """Print the scores; what the slide says, with whether it was seen."""
    columns = list(scores[next(iter(NETS))])
    print(f"{'':36}" + "".join(f"{column:>9}" for column in columns))
    for name, row in scores.items():
        cells = [
            f"{x:.3f}" if column in ("word-F1", "nats") else f"{x:.1%}" for column, x in row.items()
        ]
        print(f"{name:36}" + "".join(f"{cell:>9}" for cell in cells))
    if args.quick or args.data:  # too short to learn; other pictures may be another matter
        return {}
    fed, neighbour = scores[f"{EACH_STEP}, with y"], scores[NEIGHBOUR]
    claims = {
        "more words are right than of the nearest neighbour": fed["word-F1"] > neighbour["word-F1"],
        "names are put together that no training picture had": fed["exact"] > 0,
    }
    for form in (EACH_STEP, INITIAL_STATE):
        fed, alone = scores[f"{form}, with y"], scores[f"{form}, without y"]
        for score, (sign, told) in WHY.items():
            claims[f"{form}: with y^{{t-1}}, {told}"] = sign * (fed[score] - alone[score]) > 0
    return claims


def main(argv=None):
    p = kit.parser("captioning", __doc__)
    p.add_argument("--data", type=Path, help="a folder of fonts, or an .npz file, see above")
    p.add_argument("--fonts", type=kit.positive(int), default=3, help="how many, at most")
    kit.training_flags(p, epochs=14, batch_size=32, lr=3e-3)
    kit.resume_flags(p, init_from=False)  # for there are four nets, always
    p.add_argument("--hidden-size", type=kit.size, default=128, help="units of v and h")
    p.add_argument("--dropout", type=kit.fraction, default=0.1, help="share of units dropped")
    p.add_argument("--beam", type=kit.positive(int), default=5, help="width of the search")
    args = p.parse_args(argv)
    if args.quick:
        args.fonts, args.epochs, args.hidden_size = 1, 1, 16
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
