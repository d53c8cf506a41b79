"""N-grams with interpolated smoothing, the bar that a recurrent net must clear.

Witten and Bell (1991): a context with many different followers leaves more to the shorter one:

    p_n(c | s) = (N(s c) + D(s) p_{n-1}(c | s')) / (N(s) + D(s)),        p_0(c) = 1 / V

Kneser and Ney (1995): every count loses d to the shorter context, whose own counts are not how
often, but behind how many different words it was seen ("Francisco" is frequent, but follows "San"):

    p_n(c | s) = (max(N(s c) - d, 0) + d D(s) q_{n-1}(c | s')) / N(s)

s is the n - 1 words, or characters, before c, s' is s without its first, N counts in the training
text, D(s) is how many different words followed s there.  q is p with M(s c), how many different
words stood before s c, in place of N(s c); d = n_1 / (n_1 + 2 n_2) for n_k counts of k (Ney et al.
1994).  Of the classical smoothings this is the best (Chen and Goodman 1999).
"""

import itertools

import numpy as np


def witten_bell(train, held, vocab_size, max_order=6):
    """p of every id of `held`, which goes on after `train`, by n-grams of orders 1, 2, ...."""
    p, found, n = np.full(len(held), 1 / vocab_size), [], len(train)
    for gram, context, of_gram in numbered(np.concatenate([train, held]), vocab_size, max_order):
        count = np.bincount(gram[:n], minlength=len(of_gram))
        total, followers = (x[context[n:]] for x in by_context(count, of_gram))
        # In an unseen context p stays that of the shorter one.
        p = np.divide(
            count[gram[n:]] + followers * p, total + followers, out=p.copy(), where=total > 0
        )
        found.append(p)
    return found


def kneser_ney(train, held, vocab_size, max_order=5):
    """p of every id of `held`, which goes on after `train`, by n-grams of orders 1, 2, ...."""
    q, found, n = np.full(len(held), 1 / vocab_size), [], len(train)
    orders = numbered(np.concatenate([train, held]), vocab_size, max_order + 1)
    for (gram, context, of_gram), (longer, _, _) in itertools.pairwise(orders):
        grams = gram[n:], context[n:], of_gram
        found.append(discounted(np.bincount(gram[:n], minlength=len(of_gram)), *grams, q))
        _, places = np.unique(longer[:n], return_index=True)  # one for each different word before
        q = discounted(np.bincount(gram[places], minlength=len(of_gram)), *grams, q)
    return found


def discounted(count, gram, context, of_gram, q):
    """p of each n-gram, given the `count` of each that there is and `q` of the shorter ones."""
    once, twice = np.sum(count == 1), np.sum(count == 2)
    d = (once + 1) / (once + 2 * twice + 2)  # n_1 + 1 and n_2 + 1/2: never 0, never 1
    total, followers = (x[context] for x in by_context(count, of_gram))
    p = np.maximum(count[gram] - d, 0) + d * followers * q
    return np.divide(p, total, out=q.copy(), where=total > 0)  # in an unseen context it stays q


def numbered(ids, vocab_size, max_order):
    """For n = 1, 2, ...: the n-gram that ends at each place, its context, and that of each n-gram.

    N-grams, and contexts, are numbers.
    """
    context = np.zeros(len(ids), int)
    for _ in range(max_order):
        # Numbering the distinct pairs anew keeps the numbers small.
        pairs, gram = np.unique(context * vocab_size + ids, return_inverse=True)
        yield gram, context, pairs // vocab_size
        # The n-gram that ends before a place is its next context; len(pairs) is "text begins".
        context = np.concatenate([[len(pairs)], gram[:-1]])


def by_context(count, of_gram):
    """How often each context was followed by something, and by how many different things."""
    return np.bincount(of_gram, weights=count), np.bincount(of_gram, weights=count > 0)
