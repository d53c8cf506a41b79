"""Translation: what an encoder hands over, one context or one for every word.

    encoder     k_s = [LSTM(x_s, k_{s-1}), LSTM(x_s, k_{s+1})]      both directions of the source
    decoder     h_t = LSTM(y_{t-1}, h_{t-1}),  h_0 of C              C = the two last states
    output      y_t ~ softmax(V tanh(M [h_t, c_t]) + b)              V = the target's embedding

A fixed context (Cho et al. 2014; Sutskever et al. 2014) is c_t = C at every step: the slide asks
how big it should be, especially when the input's length can vary a lot.  Attention is
c_t = sum_s a_ts k_s with a_t = softmax over s of a score of k_s and h_t: additive,
v tanh(W h + U k) (Bahdanau et al. 2015), or multiplicative, h W k (Luong et al. 2015).  All else
is the same: sizes, data, number and order of updates.

In training the decoder is fed the targets (teacher forcing), so all its steps are one call, and so
is attention.  The loss is smoothed: a small share of every target is spread over the vocabulary.
Translations come from beam search, hypotheses compared by the mean of their log-probabilities.
BLEU is computed by sacrebleu on the words as they are.  The weights of the best epoch and the width
of the beam are chosen on validation pairs; the test pairs are read once.

The default data are CLDR's own: lists of dates, distances in time, measures and territories, as
English and German put them.  `--data` takes a folder of parallel text, its words split by blanks.
With `--pieces` words are cut into so many frequent pieces (byte-pair encoding, Sennrich et al.
2016), learned from the training pairs of each language.  The run of the benchmark:

    --data MULTI30K --pieces 4000 --context multiplicative --embedding 256 --hidden-size 256
        --dropout 0.3 --epochs 10 --batch-size 64 --lr 0.002 --beam 1 2 5 10

EXERCISE: write `bleu(written, right)`: BLEU in percent (Papineni et al. 2002) of a list of
translations, one reference each, all lists of words.  It is 100 B (p_1 p_2 p_3 p_4)^(1/4), with p_n
the share of the n-grams written that are in the reference too, each counted as often as it is
there at most, summed over all sentences before the division, and B = min(1, exp(1 - r / w)) for r
words of the references and w words written.  `pytest -k bleu` grades it.
"""

import functools
import itertools
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training
from demos._parallel import END, PADDING, Corpus, cldr_pairs, read_pairs
from demos._pictures import heat_map

BANDS = 4  # of lengths, by which BLEU is told
AT_ONCE = 50  # sources that are searched together
PAIRS = {"train": 8000, "val": 500, "test": 1000}  # of CLDR
MOST = 5  # things in a list of CLDR
CONTEXTS = {
    "fixed": lambda size: None,
    "additive": lambda size: tg.nn.AdditiveAttention(size, size, size),
    "multiplicative": lambda size: tg.nn.MultiplicativeAttention(size, size),
}


# ---- the model ----


class Translator(tg.nn.Module):
    """Vectors, one a target word, whose products with the embedding are logits of the next."""

    def __init__(self, sources, targets, embedding, size, attend, dropout):
        self.embed_source = tg.nn.Embedding(sources, embedding)
        self.embed_target = tg.nn.Embedding(targets, embedding)
        self.embed_target.weight.array[...] *= 0.3  # logits are products with it, small at first
        self.encoder = recurrent(embedding, size // 2, bidirectional=True)
        self.start = tg.nn.Linear(size, size)
        self.decoder = recurrent(embedding, size)
        self.attend = attend
        self.M = tg.nn.Linear(2 * size, embedding)
        self.b = tg.tensor(np.zeros(targets, np.float32), requires_grad=True)
        self.dropout = tg.nn.Dropout(dropout)

    def encode(self, x, lengths):
        """The state in which the decoder starts: C, what attention reads, h and c."""
        keys, (last, _) = self.encoder(self.dropout(self.embed_source(x)), lengths=lengths)
        C = tg.concatenate([last[0], last[1]], -1)
        memory = self.attend.memory(keys, lengths) if self.attend else None
        c = self.start(C)
        return C, memory, tg.tanh(c), c

    def decode(self, y, state, lengths=None):
        """Vectors (B, T, embedding) for what follows each word of y (B, T), weights, and state."""
        C, memory, h, c = state
        words = self.dropout(self.embed_target(y))
        steps, (h, c) = self.decoder(words, (h[None], c[None]), lengths)
        if self.attend:
            contexts, weights = self.attend.step(steps, memory)
        else:
            contexts, weights = tg.broadcast_to(C[:, None], steps.shape), None
        vectors = tg.tanh(self.M(tg.concatenate([steps, contexts], -1)))
        return self.dropout(vectors), weights, (C, memory, h[0], c[0])

    def logits(self, vectors):
        """The logits of every word of the target vocabulary."""
        return vectors @ self.embed_target.weight.T + self.b

    def step(self, words, state):
        """The step function of a beam search: of a state each hypothesis has a row."""
        vectors, _, state = self.decode(words[:, None], state)
        return tg.log_softmax(self.logits(vectors[:, 0])), state


def recurrent(inputs, size, **settings):
    """An LSTM that forgets little at first."""
    return tg.nn.LSTM(inputs, size, batch_first=True, forget_bias=1.0, **settings)


# ---- training ----


def log_probs(model, pairs):
    """The log-probabilities (N, V) at all N places of the targets, and their words (N,)."""
    x, lengths = kit.padded([source for source, _ in pairs], PADDING)
    y, ends = kit.padded([[END, *target, END] for _, target in pairs], PADDING)
    vectors, _, _ = model.decode(y[:, :-1], model.encode(x, lengths), ends - 1)
    targets = y[:, 1:].ravel()
    places = np.flatnonzero(targets != PADDING)  # padding costs a row of the vocabulary, too
    rows = tg.reshape(vectors, (targets.size, vectors.shape[-1]))[places]
    return tg.log_softmax(model.logits(rows)), targets[places]


def smoothed(log_p, targets, share):
    """The mean loss when this share of each target is spread evenly over the vocabulary."""
    return (1 - share) * tg.nll(log_p, targets) - share * log_p.mean()


@tg.no_grad()
def perplexity(model, pairs):
    """Of the targets, each word given those before it and the source."""
    order = np.argsort([len(source) for source, _ in pairs], kind="stable")
    nats, count = 0.0, 0
    for part in np.array_split(order, -(-len(pairs) // AT_ONCE)):
        log_p, targets = log_probs(model, [pairs[i] for i in part])
        nats += tg.nll(log_p, targets).item() * len(targets)
        count += len(targets)
    return float(np.exp(nats / count))


def trained(context, corpus, args, run):
    """A model with this kind of context, trained; its best epoch is that of the best BLEU."""
    tg.manual_seed(args.seed)
    size = 2 * args.hidden_size
    attend, sizes = CONTEXTS[context](size), [len(language) for language in corpus.languages]
    model = Translator(*sizes, args.embedding, size, attend, args.dropout)
    training.start_from(model, args, corpus.vocabulary)
    train = corpus.ids["train"]
    lengths = np.array([len(target) for _, target in train])

    def loss_of(batch):
        return smoothed(*log_probs(model, [train[i] for i in batch]), args.smoothing)

    def validate():
        model.eval()
        val = corpus.ids["val"]
        bleu, e = bleu_of(corpus, "val", translations(model, val, 1)), perplexity(model, val)
        model.train()
        run.say(f"{context}: validation BLEU {bleu:.2f} by greedy choice, perplexity {e:.2f}")
        run.log(context=context, greedy_bleu=bleu, perplexity=e)
        return bleu

    epoch = functools.partial(kit.batches, lengths, args.batch_size)
    settings = {"rate": rate, "clip": 1.0, "validate": validate, "vocabulary": corpus.vocabulary}
    losses = training.fit(model, loss_of, epoch, args, run, context, **settings)
    count = sum(p.size for p in model.parameters())
    run.say(f"{context}: {count:,} parameters, {len(losses):,} updates")
    run.log(context=context, parameters=count, updates=len(losses))
    training.save_model(run, context, model, corpus.vocabulary)
    return model.eval()


def rate(share):
    """The factor of the rate: up for a twentieth of the run, then down to 0."""
    return min(20 * share + 1e-3, 1 - share)


# ---- translating ----


@tg.no_grad()
def translations(model, pairs, beam):
    """For each source the ids of the hypothesis with the best mean log-probability."""
    order = np.argsort([len(source) for source, _ in pairs], kind="stable")
    written = [None] * len(pairs)
    for part in np.array_split(order, -(-len(pairs) // AT_ONCE)):
        x, lengths = kit.padded([pairs[i][0] for i in part], PADDING)
        state, start = model.encode(x, lengths), np.full(len(part), END)
        settings = {"steps": 2 * x.shape[1] + 10, "end": END, "length_penalty": 1.0}
        found = tg.decode.beam_search(model.step, state, start, beam=beam, **settings)
        for i, hypotheses in zip(part, found, strict=True):
            written[i] = list(hypotheses[0].tokens)
    return written


def best_beam(model, corpus, widths):
    """The width that gives the best BLEU on the validation pairs, and the BLEU of each width."""
    pairs = corpus.ids["val"]
    scores = {w: bleu_of(corpus, "val", translations(model, pairs, w)) for w in sorted(widths)}
    return max(scores, key=scores.get), scores


@tg.no_grad()
def weights_of(model, source, target):
    """The weights of attention (T, S) when `model` is fed this target."""
    x, lengths = kit.padded([source])
    return model.decode(np.array([[END, *target]]), model.encode(x, lengths))[1].numpy()[0]


# ---- the data ----


def read(args):
    """The pairs of --data, or of CLDR."""
    if args.data:
        parts = {"train": "train", "val": "val", "test": args.test}
        words = {part: read_pairs(args.data, name, args.languages) for part, name in parts.items()}
    else:
        train, val, test = [n // 40 if args.quick else n for n in PAIRS.values()]
        pairs = cldr_pairs(train + val + test, MOST, args.seed)
        words = {"train": pairs[:train], "val": pairs[train:-test], "test": pairs[-test:]}
    return Corpus(words, args.pieces)


# ---- BLEU ----


@functools.cache
def metric():
    """BLEU of words as they are."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise kit.DataError("BLEU needs sacrebleu: pip install 'tinygrad_rnn[demos]'") from None
    return BLEU(tokenize="none", force=True)


def bleu_of(corpus, part, written, places=None):
    """The BLEU of what was written for a part, or for those of its sources in `places`."""
    places = range(len(written)) if places is None else places
    said = [" ".join(corpus.languages[1].words(written[i])) for i in places]
    right = [" ".join(corpus.words[part][i][1]) for i in places]
    return metric().corpus_score(said, [right]).score


def bands_of(lengths):
    """The places of the shortest, the longer and so on, cut between lengths: {"1-4": places}."""
    starts = np.quantile(lengths, np.arange(BANDS) / BANDS, method="lower")
    edges = np.unique([*starts, lengths.max() + 1])
    bands = {}
    for low, high in itertools.pairwise(edges):
        bands[f"{low}-{high - 1}"] = np.flatnonzero((low <= lengths) & (lengths < high))
    return bands


# ---- the demo ----


def demo(args, run):
    metric()  # if it is missing, that should be told before the training
    corpus = read(args)
    corpus.describe(run.say)
    lengths = np.array([len(source) for source, _ in corpus.words["test"]])
    bands, beams, tests, written = bands_of(lengths), {}, {}, {}
    for context in args.context:
        model = trained(context, corpus, args, run)
        beam, beams[context] = best_beam(model, corpus, args.beam)
        written[context] = translations(model, corpus.ids["test"], beam)
        tests[context] = [
            bleu_of(corpus, "test", written[context], places) for places in [*bands.values(), None]
        ]
        run.log(context=context, beam=beam, validation=beams[context], test=tests[context])
        with run.path(f"{context}.txt").open("w", encoding="utf-8") as file:
            file.writelines(" ".join(corpus.languages[1].words(y)) + "\n" for y in written[context])
        if model.attend:
            draw(context, model, corpus, written[context], run)
    middles = {"words of the source": [lengths[places].mean() for places in bands.values()]}
    by_length = {context: scores[:-1] for context, scores in tests.items()}
    run.curves("bleu_by_length", middles | by_length, "BLEU of the test")
    report(corpus, beams, tests, bands, written)
    return {} if args.quick else claims(tests, beams)


def draw(context, model, corpus, written, run):
    """Draw the attention of the longest test source that was translated like the reference."""
    pairs = corpus.ids["test"]
    exact = [i for i, (_, target) in enumerate(pairs) if written[i] == target]
    i = max(exact, key=lambda i: len(pairs[i][0]), default=0)
    source, (columns, rows) = pairs[i][0], corpus.languages
    heat_map(
        run,
        f"attention_{context}",
        weights_of(model, source, written[i]),
        [*rows.pieces(written[i]), "<end>"],
        columns.pieces(source),
        ("source", "translation"),
        "weight",
    )


def report(corpus, beams, tests, bands, written):
    """Print the tables, and a sentence of the longest with its translations."""
    print("validation BLEU, by width of the beam")
    for context, scores in beams.items():
        print(f"  {context:16}" + "".join(f"{w:>6}: {s:5.2f}" for w, s in scores.items()))
    heads = [*bands, "all"]
    print(f"{'test BLEU, by words of the source':36}" + "".join(f"{h:>9}" for h in heads))
    for context, scores in tests.items():
        print(f"  {context:34}" + "".join(f"{score:9.2f}" for score in scores))
    print(f"  BLEU is {metric().get_signature()}")
    i = next(reversed(bands.values()))[0]
    source, target = corpus.words["test"][i]
    print(f"  {'source':16}{' '.join(source)}\n  {'reference':16}{' '.join(target)}")
    for context, own in written.items():
        print(f"  {context:16}{' '.join(corpus.languages[1].words(own[i]))}")


def claims(tests, beams):
    """What the slides say, with whether it was seen, as far as the contexts were compared."""
    seen, fixed = {}, tests.get("fixed")
    for context, own in tests.items() if fixed else ():
        if context != "fixed":
            gains = np.subtract(own, fixed)
            seen[f"{context} attention is better than the fixed context"] = gains[-1] > 0
            seen[f"{context} attention gains more on long than on short"] = gains[-2] > gains[0]
    widths = beams.get("fixed", {1: 0.0})
    if 1 in widths and len(widths) > 1:  # the widest, not the best: that would be a choice
        seen["where the net is unsure, the widest beam finds what greedy choice misses"] = (
            widths[max(widths)] > widths[1]
        )
    return seen


def main(argv=None):
    p = kit.parser("translation", __doc__)
    p.add_argument("--data", type=Path, help="a folder with train*, val* and test files")
    p.add_argument("--languages", nargs=2, default=["en", "de"], help="endings of their names")
    p.add_argument("--test", default="test", help="how the names of the test files begin")
    p.add_argument("--pieces", type=kit.natural(), default=0, help="of words; 0: words are not cut")
    p.add_argument(
        "--context", nargs="+", choices=CONTEXTS, default=[*CONTEXTS], help="those to compare"
    )
    p.add_argument("--embedding", type=kit.size, default=64, help="size of words' vectors")
    p.add_argument("--hidden-size", type=kit.size, default=64, help="units per direction")
    p.add_argument("--dropout", type=kit.fraction, default=0.1, help="of inputs and outputs")
    p.add_argument("--smoothing", type=kit.fraction, default=0.1, help="share of a target spread")
    p.add_argument("--beam", type=kit.positive(int), nargs="+", default=[1, 2, 5], help="widths")
    kit.training_flags(p, epochs=3, batch_size=32, lr=5e-3)
    kit.resume_flags(p)
    args = p.parse_args(argv)
    if args.init_from and len(args.context) > 1:
        p.error("--init-from: the weights are those of one net, so name one by --context")
    if args.quick:
        args.epochs, args.embedding, args.hidden_size, args.beam = 1, 16, 16, [1, 2]
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
