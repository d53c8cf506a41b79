"""The recursive nets in PyTorch: one call for each node, and batched by hand."""

from collections import defaultdict

import torch
from torch.nn import functional as F

from benchmarks import _data
from benchmarks._recursive_data import REDUCE, forests
from benchmarks._torch import TorchTraining

MOST = 20_000  # nodes: with a call for each, a step of 100,000 takes a quarter of a minute


class Net(TorchTraining):
    """The cells, the loss and the optimiser; a state is a tuple, h first."""

    def __init__(self, net, D, H, trees=0, nodes=0):
        arrays, self.batches = forests(net, D, H, trees, nodes)
        self.track(arrays)
        self.H = H
        self.optimizer = torch.optim.SGD(self.parameters.values(), _data.LR)
        lstm = net == "Tree-LSTM"
        self.leaf, self.compose = (
            (self.lstm_leaf, self.lstm_compose) if lstm else (self.rntn_leaf, self.rntn_compose)
        )

    def words(self, ids):
        """The rows of E that `ids` name; the gradient of E holds only these."""
        return F.embedding(self.there(ids), self.parameters["E"], sparse=True)

    def there(self, numbers):
        """The numbers as a tensor where the parameters are."""
        return torch.as_tensor(numbers, device=self.parameters["E"].device)

    def lstm_leaf(self, x):
        """The states h and c (n, H) of leaves with the words x (n, D)."""
        i, g, o = torch.addmm(self.parameters["b"], x, self.parameters["W"]).chunk(3, 1)
        c = torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def lstm_compose(self, left, right):
        """The states h and c (n, H) of nodes with these children."""
        h = torch.cat((left[0], right[0]), 1)
        z = torch.addmm(self.parameters["a"], h, self.parameters["U"])
        i, f_left, f_right, g, o = z.chunk(5, 1)
        c = torch.sigmoid(i) * torch.tanh(g)
        c = c + torch.sigmoid(f_left) * left[1] + torch.sigmoid(f_right) * right[1]
        return torch.sigmoid(o) * torch.tanh(c), c

    def rntn_leaf(self, x):
        """The state of a leaf is its word."""
        return (x,)

    def rntn_compose(self, left, right):
        """The state h (n, H) of nodes with these children."""
        p = torch.cat((left[0], right[0]), 1)
        pT = (p @ self.parameters["T"]).view(-1, 2 * self.H, self.H)
        products = (pT * p[:, :, None]).sum(1)
        return (torch.tanh(products + torch.addmm(self.parameters["a"], p, self.parameters["U"])),)

    def mean_loss(self, h, labels):
        """The mean cross entropy at the states h (N, H)."""
        logits = torch.addmm(self.parameters["r"], h, self.parameters["R"])
        return F.cross_entropy(logits, self.there(labels))

    def update(self):
        self.optimizer.step()


class PerNode(Net):
    """One call of a cell for each node; only the words and the losses are taken all at once."""

    def __init__(self, net, nodes=0, **sizes):
        if nodes > MOST:
            raise NotImplementedError(f"is not measured for more than {MOST} nodes, for its time")
        super().__init__(net, nodes=nodes, **sizes)

    def loss(self, batch):
        xs = iter(self.words([word for word in batch.postfix if word != REDUCE]).split(1))
        hs = []
        for tree in batch.trees:
            self.embed(tree, xs, hs)
        return self.mean_loss(torch.cat(hs), batch.labels)

    def embed(self, tree, xs, hs):
        """The states of a tree whose words are the next `xs`; every h is added to `hs`."""
        if tree.left is None:
            state = self.leaf(next(xs))
        else:
            state = self.compose(self.embed(tree.left, xs, hs), self.embed(tree.right, xs, hs))
        hs.append(state[0])
        return state


class AllPerNode(PerNode):
    """The words and the losses, too, by a call for each node."""

    def loss(self, batch):
        labels, losses = iter(batch.labels.tolist()), []
        for tree in batch.trees:
            self.embed(tree, labels, losses)
        return torch.stack(losses).mean()

    def embed(self, tree, labels, losses):
        """The state of a tree whose labels are the next ones; every loss is added to `losses`."""
        if tree.left is None:
            state = self.leaf(self.words([tree.word]))
        else:
            left = self.embed(tree.left, labels, losses)
            state = self.compose(left, self.embed(tree.right, labels, losses))
        losses.append(self.mean_loss(state[0], [next(labels)]))
        return state


class ByHand(Net):
    """All nodes of one height in one call.

    Of the ways tried the fastest: `states` holds h and c, side by side, of those nodes below this
    height that still wait for a parent.  Slower by 5 to 15 % were one buffer for the
    states of all nodes, written level by level, and joining all levels below at every level.
    """

    def loss(self, batch):
        levels, parent_height = schedule(batch.postfix)
        waiting = levels[0]
        state = self.leaf(self.words([batch.postfix[node] for node in waiting]))
        states, hs, order = torch.cat(state, 1), [state[0]], [*waiting]
        for height, level in enumerate(levels[1:], start=1):
            nodes, lefts, rights = zip(*level, strict=True)
            row = {node: i for i, node in enumerate(waiting)}
            kept = [node for node in waiting if parent_height[node] > height]
            rows = self.there([row[node] for node in (*lefts, *rights, *kept)])
            counts = [len(nodes), len(nodes), len(kept)]
            left, right, rest = states.index_select(0, rows).split(counts)
            state = self.compose(left.split(self.H, 1), right.split(self.H, 1))
            states, waiting = torch.cat((torch.cat(state, 1), rest)), [*nodes, *kept]
            hs.append(state[0])
            order += nodes
        return self.mean_loss(torch.cat(hs), batch.labels[order])


def schedule(postfix):
    """The leaves, then for each height (node, left, right); and the height of each one's parent."""
    levels, heights, parent_height, stack = defaultdict(list), [], defaultdict(int), []
    for node, word in enumerate(postfix):
        if word == REDUCE:
            right, left = stack.pop(), stack.pop()
            height = 1 + max(heights[left], heights[right])
            parent_height[left] = parent_height[right] = height
            levels[height].append((node, left, right))
        else:
            height = 0
            levels[0].append(node)
        heights.append(height)
        stack.append(node)
    return [levels[height] for height in range(len(levels))], parent_height
