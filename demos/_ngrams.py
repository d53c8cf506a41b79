"""Character n-grams with interpolated Witten-Bell smoothing: the bar a recurrent net must clear.

    p_n(c | s) = (N(s c) + D(s) p_{n-1}(c | s')) / (N(s) + D(s)),        p_0(c) = 1 / V

s is the n - 1 characters before c, s' is s without its first character, N counts in the training
text, D(s) is how many different characters followed s there: a context with many different
followers leaves more to the shorter context.
"""

import numpy as np


def witten_bell(train, valid, vocab_size, max_order=6):
    """Nats per character of `valid` (ids) by n-grams of orders 1, 2, ... counted in `train`."""
    ids = np.concatenate([train, valid])
    context = np.zeros(len(ids), int)  # for each character, the number of the context before it
    p = np.full(len(valid), 1 / vocab_size)
    losses = []
    for _ in range(max_order):
        # Numbering the distinct (context, character) pairs anew keeps the numbers small.
        pairs, gram = np.unique(context * vocab_size + ids, return_inverse=True)
        count = np.bincount(gram[: len(train)], minlength=len(pairs))
        of_gram = pairs // vocab_size  # the context of each distinct n-gram
        total = np.bincount(of_gram, weights=count)
        distinct = np.bincount(of_gram, weights=count > 0)

        n, d = total[context[len(train) :]], distinct[context[len(train) :]]
        smoothed = count[gram[len(train) :]] + d * p
        p = np.divide(smoothed, n + d, out=p, where=n > 0)  # an unseen context: the shorter one
        losses.append(-np.log(p).mean())
        # The n-gram that ends before a character is its next context; len(pairs) is "text begins".
        context = np.concatenate([[len(pairs)], gram[:-1]])
    return losses
