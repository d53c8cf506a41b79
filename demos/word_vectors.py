"""Word vectors in three ways, and whether words that are used alike come to lie near.

    LSA         M[w, c] = max(0, log P(w, c) / (P(w) P(c))),  M ~ L S R^T,   v_w = L_w sqrt(S)
    word2vec    E = -log sigmoid(u_o . h) - sum over K drawn words n of log sigmoid(-u_n . h)
      skip-gram   h = v_w: the middle word predicts o, each word near it
      CBOW        h = the mean of v_c over the words c near it: they predict o, the middle word

"You shall know a word by the company it keeps" (Firth 1957): both read nothing but which words
stand within a few places of each other.  LSA counts them all, turns the counts into PPMI and keeps
the largest singular values; word2vec never counts, it learns from one pair of words after another
(Mikolov et al. 2013), and skip-gram comes to factor a shifted PMI too (Levy and Goldberg 2014).

The check makes true synonyms: some words get a twin, and each occurrence of such a word becomes,
by a throw of a coin, word or twin.  Only their company can tell that the two belong together.  The
figure is the share of twins that are nearest neighbours among all words; that of random vectors is
next to 0.  In the default text, the manual inside the interpreter, two kinds of name tell more:
special names such as __add__ and exceptions.  How many of the neighbours of one are of its kind?

EXERCISE: write `analogy(v, a, b, c)` here: the row d of `v` for which a : b = c : d, the one whose
cosine with v[b] - v[a] + v[c], all rows scaled to length 1 first, is largest; never a, b or c.
`pytest -k analogy` grades it.
"""

import builtins
import collections
import re
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _planes as planes
from demos.char_lm import default_text

TWIN = "\N{PRIME}"  # ends the name of a twin; no word has it
FUNCTION_WORDS = 50  # the commonest words stand beside everything: no twins, not printed
BATCH = 256  # predictions a step
NEIGHBOURS = 5
SUBSAMPLE = 1e-3  # words with a larger share of the text are left out now and then
SHOWN, DRAWN = 4, 30  # words whose neighbours are printed, words in the picture
ENOUGH, FEW = 0.25, 0.05  # of the twins: to say that a way finds them, that it does not


# ---- the text: words, twins, and who stands near whom ----


def split_words(text):
    """The words of a text, in small letters."""
    return re.findall(r"[^\W\d]\w*", text.lower())


def with_twins(words, count, fewest, rng):
    """The words, some occurrences replaced by twins, and the words that have twins.

    Half of the words that are common enough for both halves to be read `fewest` times, `count` at
    most, have twins.  The other half shows what the vectors are like where nobody interfered.
    """
    common = [w for w, n in collections.Counter(words).most_common() if n >= 4 * fewest]
    twinned = common[FUNCTION_WORDS::2][:count]
    heads = rng.random(len(words)) < 0.5
    chosen = set(twinned)
    return [w + TWIN if h and w in chosen else w for w, h in zip(words, heads)], twinned


def vocabulary(words, fewest, most):
    """The number of each of the `most` commonest words that occur `fewest` times, and how often."""
    common = collections.Counter(words).most_common(most)
    counts = {w: n for w, n in common if n >= fewest}
    return {w: i for i, w in enumerate(counts)}, np.array([*counts.values()])


def read(args, rng):
    """The text as ids, the number and the count of each word, and the numbers of word and twin."""
    text = kit.read_text(args.data) if args.data else default_text()
    words, twinned = with_twins(split_words(text), args.twins, args.fewest, rng)
    number, counts = vocabulary(words, args.fewest, args.words)
    ids = np.array([number[w] for w in words if w in number])
    twins = [(w, w + TWIN) for w in twinned if {w, w + TWIN} <= number.keys()]
    if not twins:
        raise kit.DataError(
            f"{args.data or 'the manual'}: {len(words):,} words, of which none has a twin;"
            f" expected: beyond the {FUNCTION_WORDS} commonest, some that occur 4 * --fewest ="
            f" {4 * args.fewest} times and that --words keeps; give more text or lower --fewest"
        )
    return ids, number, counts, np.array([(number[w], number[twin]) for w, twin in twins])


def company(ids, window, rng=None):
    """The neighbours of every word, (N, 2 * window), and which of these places count.

    With `rng` each word draws how far it looks, 1 to `window`, so that near words count more.
    """
    offsets = np.array([d for d in range(-window, window + 1) if d])
    places = np.arange(len(ids))[:, None] + offsets
    radius = rng.integers(1, window + 1, (len(ids), 1)) if rng else window
    counts = (places >= 0) & (places < len(ids)) & (abs(offsets) <= radius)
    return ids[places.clip(0, len(ids) - 1)], counts


# ---- LSA ----


def ppmi(ids, size, window):
    """M (V, V): by which factor, in nats, c is commoner near w than elsewhere; 0 where rarer."""
    near, counts = company(ids, window)
    together = np.zeros((size, size))
    middle = np.broadcast_to(ids[:, None], near.shape)
    np.add.at(together, (middle[counts], near[counts]), 1.0)
    alone = together.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # of words that never meet
        factor = together * together.sum() / np.outer(alone, alone)
    return np.log(np.maximum(np.nan_to_num(factor), 1.0))


def lsa(ids, size, args):
    """The rows of L sqrt(S), of the `args.dim` largest singular values of the PPMI."""
    left, values, _ = np.linalg.svd(ppmi(ids, size, args.window))
    return left[:, : args.dim] * np.sqrt(values[: args.dim])


# ---- word2vec ----


class Word2Vec(tg.nn.Module):
    """Two tables: v of the words that predict, u of the words that are predicted."""

    def __init__(self, size, dim):
        self.v = tg.nn.Embedding(size, dim)
        self.u = tg.nn.Embedding(size, dim)
        self.v.weight.array = self.v.weight.array / dim
        self.u.weight.array = np.zeros_like(self.u.weight.array)

    def cost(self, h, o, drawn):
        """E of every prediction, (B,): of `o` (B,) and not of the words `drawn` (B, K) from h."""
        others = np.where(drawn == o[:, None], 0.0, 1.0).astype(np.float32)  # o may be drawn too
        right = tg.einsum("bd,bd->b", self.u(o), h)
        wrong = tg.einsum("bkd,bd->bk", self.u(drawn), h)
        return tg.softplus(-right) + (tg.softplus(wrong) * tg.tensor(others)).sum(-1)

    def skip_gram(self, w):
        """h (B, D) from the middle words w (B,)."""
        return self.v(w)

    def cbow(self, near, counts):
        """h (B, D) from the neighbours (B, 2 * window) that count."""
        weights = counts / counts.sum(axis=1, keepdims=True)
        return tg.einsum("bcd,bc->bd", self.v(near), tg.tensor(weights.astype(np.float32)))


def predictions(kind, ids, args, rng):
    """What one pass predicts, as (what h is made of, o): every pair, or every middle word."""
    near, counts = company(ids, args.window, rng)
    if kind == "skip-gram":
        place, column = np.nonzero(counts)
        return (ids[place],), near[place, column]
    some = counts.any(axis=1)
    return (near[some], counts[some]), ids[some]


def train(kind, ids, counts, args, run):
    """The vectors v, after so many passes through the text by SGD."""
    rng, model = np.random.default_rng(args.seed), Word2Vec(len(counts), args.dim)
    hidden = model.skip_gram if kind == "skip-gram" else model.cbow
    optimizer = tg.optim.SGD(model.parameters(), lr=args.lr)
    noise = counts**0.75 / (counts**0.75).sum()
    often = np.sqrt(SUBSAMPLE * len(ids) / counts)[ids]  # the chance of a word to be kept
    passes, costs = args.epochs if kind == "skip-gram" else args.window * args.epochs, []
    with kit.Progress(run, kind) as progress:
        for epoch in range(passes):
            kept = ids[rng.random(len(ids)) < often]
            source, o = predictions(kind, kept, args, rng)
            order, losses = rng.permutation(len(o)), []
            for start in range(0, len(o), BATCH):
                batch = order[start : start + BATCH]
                drawn = rng.choice(len(noise), (len(batch), args.negatives), p=noise)
                cost = model.cost(hidden(*(part[batch] for part in source)), o[batch], drawn)
                optimizer.zero_grad()
                cost.sum().backward()  # as if one prediction moved the tables after another
                optimizer.lr = args.lr * (1 - (epoch + start / len(o)) / passes)
                losses.append(cost.numpy().mean())
                kit.check_finite(losses[-1])
                optimizer.step()  # moves the rows that were looked up, no others
            costs.append(np.mean(losses))
            run.log(way=kind, epoch=epoch + 1, nats=costs[-1])
            progress.reached((epoch + 1) / passes, f"{costs[-1]:.3f} nats a prediction")
    return model.v.weight.numpy()


# ---- what came of it ----


def unit(v):
    """The rows of v, scaled to length 1."""
    return v / np.linalg.norm(v, axis=1, keepdims=True).clip(1e-12)


def nearest(v):
    """For every word the other words, those with the largest cosine first: (V, V - 1)."""
    cosines = unit(v) @ unit(v).T
    np.fill_diagonal(cosines, -np.inf)  # so that it comes last
    return np.argsort(-cosines, axis=1, kind="stable")[:, :-1]


def twins_found(order, twins):
    """The share of words with a twin, and of twins, whose nearest neighbour is the other."""
    return (order[twins, 0] == twins[:, ::-1]).mean()


def kinds(words):
    """What only a special name or an exception can be, by word; "" for other words."""
    exceptions = {
        name.lower()
        for name, x in vars(builtins).items()
        if isinstance(x, type) and issubclass(x, BaseException)
    }
    special = {w for w in words if re.fullmatch(r"__[a-z]\w*__", w)}
    kind = dict.fromkeys(exceptions, "exception") | dict.fromkeys(special, "special name")
    return np.array([kind.get(w, "") for w in words])


def same_kind(order, kind):
    """The share of the neighbours of the names that are of the same kind; a twin is no name."""
    names = np.flatnonzero(kind)
    return (kind[order[names, :NEIGHBOURS]] == kind[names, None]).mean()


# ---- the demo ----


def demo(args, run):
    rng = np.random.default_rng(args.seed)
    ids, number, counts, twins = read(args, rng)
    words, size = list(number), len(number)
    kind = kinds(words)
    run.say(f"text: {len(ids):,} words, {size:,} different; {len(twins)} of them have a twin")
    ways = {
        "random vectors": rng.normal(size=(size, args.dim)),
        "LSA, words shuffled": lsa(rng.permutation(ids), size, args),
        "LSA": lsa(ids, size, args),
        "skip-gram": train("skip-gram", ids, counts, args, run),
        "CBOW": train("CBOW", ids, counts, args, run),
    }
    order = {way: nearest(v) for way, v in ways.items()}
    found = {way: twins_found(near, twins) for way, near in order.items()}
    kin = {way: same_kind(near, kind) for way, near in order.items()} if kind.any() else {}

    free = np.setdiff1d(np.arange(FUNCTION_WORDS, size), twins)[:DRAWN]
    examples = [*free[:SHOWN], *(np.flatnonzero(kind == k)[0] for k in np.unique(kind[kind > ""]))]
    learnt = {way: ways[way] for way in list(ways)[2:]}
    for i in examples:
        print(f"nearest to {words[i]}")
        for way in learnt:
            print(f"  {way:20}{' '.join(words[j] for j in order[way][i, :NEIGHBOURS])}")
    print(f"\n{'':22}{'twin is nearest':>15}{'neighbours of a name of its kind':>36}")
    for way in ways:
        run.log(way=way, twins_found=found[way], same_kind=kin.get(way))
        print(f"{way:22}{found[way]:15.1%}{f'{kin[way]:.1%}' if kin else 'no names':>36}")
    drawn = np.unique([*free, *twins[::10].ravel(), *np.flatnonzero(kind)])
    places = {way: planes.plane(unit(v)[drawn]) for way, v in learnt.items()}
    lines = np.searchsorted(drawn, twins[::10])
    planes.draw(run, "picture", [words[i] for i in drawn], places, kind[drawn], lines)
    return verdicts(found, kin, learnt)


def verdicts(found, kin, learnt):
    """The claims, each with whether it was seen."""
    floors = found.keys() - learnt.keys()
    said = {
        f"each of the three finds {ENOUGH:.0%} of the twins or more": all(
            found[way] >= ENOUGH for way in learnt
        ),
        f"without the order of the words fewer than {FEW:.0%} are found": all(
            found[way] < FEW for way in floors
        ),
    }
    if kin:
        least, floor = min(kin[way] for way in learnt), max(kin[way] for way in floors)
        said["names have over twice as many neighbours of their kind as by chance"] = (
            least > 2 * floor
        )
    return said


def main(argv=None):
    p = kit.parser("word_vectors", __doc__)
    p.add_argument("--data", type=Path, help="a UTF-8 text to read instead")
    p.add_argument("--dim", type=kit.size, default=50, help="length of a vector")
    p.add_argument("--window", type=kit.length, default=4, help="places to either side")
    p.add_argument("--words", type=kit.positive(int), default=2000, help="vectors at most")
    p.add_argument("--fewest", type=kit.positive(int), default=8, help="occurrences of a word")
    p.add_argument("--twins", type=kit.positive(int), default=200, help="words split at most")
    p.add_argument(
        "--epochs", type=kit.positive(int), default=5, help="of skip-gram; CBOW: times --window"
    )
    p.add_argument("--negatives", type=kit.positive(int), default=5, help="words drawn, K")
    p.add_argument("--lr", type=kit.positive(float), default=0.1, help="rate of SGD at the start")
    args = p.parse_args(argv)
    if args.quick:
        args.epochs, args.fewest, args.dim = 2, 16, 32
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
