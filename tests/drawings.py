"""Nets for any number of steps, and what the texts of their drawings say, read back."""

import re
from xml.etree import ElementTree

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

SVG = "{http://www.w3.org/2000/svg}"
D, H = 2, 3
TIMES = "\N{MULTIPLICATION SIGN}"


def leaf(*shape):
    return tg.tensor(np.ones(shape), requires_grad=True)


# ---- nets, for any number of steps ---------------------------------------------------------------


def elman(T, tracked=True, named=True):
    """h^t = tanh(U x^t + W h^{t-1} + b), E the sum of V h^t, and its names."""
    U, W, V, b = leaf(H, D), leaf(H, H), leaf(1, H), leaf(H)
    xs = [leaf(1, D) if tracked else np.ones((1, D)) for _ in range(T)]
    h, hs, E = np.zeros((1, H)), [], 0.0
    for x in xs:
        h = tg.tanh(x @ U.T + h @ W.T + b)
        hs.append(h)
        E = E + tg.sum(h @ V.T)
    return E, {"U": U, "W": W, "V": V, "b": b, "x": xs, "h": hs} if named else None


def cells(*kinds):
    """The function from T to a stack of cells over T steps."""

    def net(T):
        stack = [kind(D if i == 0 else H, H) for i, kind in enumerate(kinds)]
        states = [None] * len(stack)
        for _ in range(T):
            below = leaf(1, D)
            for i, cell in enumerate(stack):
                states[i] = cell(below, states[i])
                below = states[i][0] if isinstance(states[i], tuple) else states[i]
        return tg.sum(below), {str(i): cell for i, cell in enumerate(stack)}

    return net


def encoder_decoder(T):
    """T steps, and then T + 1 others that read the last state."""
    read, write, E = nn.GRUCell(D, H), nn.GRUCell(H, H), 0.0
    state = context = None
    for _ in range(T):
        context = read(np.ones((1, D), np.float32), context)
    for _ in range(T + 1):
        state = write(context, state)
        E = E + tg.sum(state)
    return E, None


def bidirectional(T):
    f, g, V = nn.RNNCell(D, H), nn.RNNCell(D, H), nn.Linear(2 * H, 1)
    xs, forwards, backwards = [leaf(1, D) for _ in range(T)], [None], [None]
    for x in xs:
        forwards.append(f(x, forwards[-1]))
    for x in reversed(xs):
        backwards.append(g(x, backwards[-1]))
    pairs = zip(forwards[1:], backwards[:0:-1], strict=True)
    return [V(tg.concatenate(pair, axis=-1)) for pair in pairs], {"x": xs}


def layer(T):
    net = nn.LSTM(D, H, num_layers=2)
    with tg.detect_anomaly():  # or the picture would have one box for all steps of a layer
        return net(leaf(T, 1, D))[0].sum(), {"": net}


def tree(depth):
    cell = nn.RecursiveCell(D, H)

    def run(height):
        if not height:
            return cell(leaf(1, D))
        return cell(None, run(height - 1), run(height - 1))

    return run(depth), cell


def folded_tree(depth):
    parse = 0
    for _ in range(depth):
        parse = (parse, parse)
    structure = tg.Structure.trees([parse])
    cell = nn.RecursiveCell(D, H)
    h = tg.fold(cell, structure, {0: leaf(2**depth, D)})
    return h[structure.root].sum(), cell


NETS = {
    "elman": elman,
    "elman, no names": lambda T: elman(T, named=False),
    "elman, data": lambda T: elman(T, tracked=False),
    "lstm": cells(nn.LSTMCell),
    "gru": cells(nn.GRUCell),
    "peepholes": cells(nn.PeepholeLSTMCell),
    "stacked": cells(nn.RNNCell, nn.RNNCell),
    "encoder-decoder": encoder_decoder,
    "bidirectional": bidirectional,
    "layer": layer,
    "tree": tree,
    "folded tree": folded_tree,
}


# ---- reading the drawings ------------------------------------------------------------------------


def dot_parts(text):
    """The boxes of a DOT text by id, each its label, and the list of its arrows."""
    boxes = dict(re.findall(r'^  (n\d+) \[label="((?:[^"\\]|\\.)*)"', text, re.M))
    arrows = re.findall(r"^  (n\d+) -> (n\d+)", text, re.M)
    label = r'label="(?:[^"\\]|\\.)*"'
    for line in text.splitlines()[3:-1]:
        assert re.fullmatch(rf'  n\d+( \[{label}, fillcolor="#\w+"\]|.*);', line)
    assert text.count("\n") == 4 + len(boxes) + len(arrows)
    return boxes, arrows


def rectangles(text):
    """The corners of the boxes of an SVG text, and their lines."""
    root = ElementTree.fromstring(text)
    found = []
    for rect in root.iter(SVG + "rect"):
        x, y, w, h = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
        found.append((x, y, x + w, y + h))
    lines = [[span.text or "" for span in text] for text in root.iter(SVG + "text") if len(text)]
    return found, lines


def graph_of(ys):
    """The nodes behind ``ys`` from the oldest on, and their edges: by a walk of our own."""
    left, seen = [y.node for y in ys], {}
    while left:
        node = left.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            left += node.parents()
    nodes = sorted(seen.values(), key=lambda node: node.birth)
    number = {id(node): i for i, node in enumerate(nodes)}
    return nodes, [(number[id(p)], number[id(node)]) for node in nodes for p in node.parents()]


def without_counts(text):
    """A collapsed DOT text but for what counts steps, nodes or rows of a batch."""
    text = re.sub(r"\N{MULTIPLICATION SIGN}\d+( \N{MULTIPLICATION SIGN}\d+)?(?=\")", "", text)
    return re.sub(r"\\n(several|number|n|\d+)\b[^\"]*", "", text)
