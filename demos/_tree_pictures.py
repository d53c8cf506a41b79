"""Pictures of trees: every node a disc over its words, coloured by a number."""

import numpy as np

from demos._trees import REDUCE, spans_of, structure_of, words_of


def places_of(items):
    """x and depth of each node of a postfix list, x in the middle of the node's children."""
    edges = edges_of(items)
    x, depth = np.zeros(len(items)), np.zeros(len(items), int)
    x[[item is not REDUCE for item in items]] = range(len(words_of(items)))
    for parent, child in edges:  # children come before their parent
        x[parent] += x[child] / 2
    for parent, child in edges[::-1]:
        depth[child] = depth[parent] + 1
    return x, depth


def edges_of(items):
    """The pairs parent, child of a tree, the parents ascending."""
    structure = structure_of(items)
    parents = np.repeat(np.arange(len(structure)), structure.counts)
    return np.stack([parents, structure.children], axis=1)


def draw(run, tree, told, gradient, sentiment):
    """Write tree.csv, a row for each node, and draw tree.png: what is told there, what gradient is.

    `told` is a sentiment from 0 to 4, or else a probability.
    """
    items = tree.postfix
    (x, depth), words = places_of(items), words_of(items)
    phrases = [" ".join(words[first : last + 1]) for first, last in spans_of(items)]
    table = {"node": range(len(items)), "phrase": phrases, "x": x, "depth": depth}
    table |= {"label": tree.labels, "told": told, "|dL/dh|": gradient}
    run.table("tree", table)
    wide = max(0.5, 0.2 + 0.08 * max(map(len, words)))  # inches from one word to the next
    size = 2.5 + wide * len(words), 2 * (1.5 + 0.4 * depth.max())
    figure, edges = run.figure("tree", size), edges_of(items)
    if figure is None:
        return
    from matplotlib.colors import LogNorm, Normalize

    what = "the sentiment, 0 to 4," if sentiment else "p of what the root is said to be,"
    colours, norm = ("RdYlGn", Normalize(0, 4)) if sentiment else ("Blues", Normalize(0, 1))
    panels = [
        (f"{what} as told at each node; right at the root: {tree.label}", "told", colours, norm),
        ("the gradient of the root's loss at each node", "|dL/dh|", "Blues", LogNorm()),
    ]
    for axes, (title, column, colours, norm) in zip(figure.subplots(2), panels, strict=True):
        axes.plot(x[edges].T, -depth[edges].T, color="grey", linewidth=0.8, zorder=1)
        style = {"cmap": colours, "norm": norm, "edgecolors": "black", "linewidths": 0.5}
        discs = axes.scatter(x, -depth, c=table[column], s=110, zorder=2, **style)
        leaves = [node for node, item in enumerate(items) if item is not REDUCE]
        for leaf, word in zip(leaves, words, strict=True):
            style = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
            axes.annotate(word, (x[leaf], -depth[leaf]), (0, -17), **style)
        axes.set(title=title, xticks=[], yticks=[])
        axes.margins(y=0.12)
        axes.spines[:].set_visible(False)
        figure.colorbar(discs, label=column)
    figure.savefig(run.path("tree.png"), dpi=110)
