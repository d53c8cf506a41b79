"""Graphs that no sweep may go through: freed by one before, or older than the values of a leaf."""

from __future__ import annotations

from .engine import Edge, Node
from .errors import GraphFreedError, ValueChangedError
from .place import caller

__all__ = ["Freed", "changed", "is_changed"]


def is_changed(node: Node, source: Node) -> bool:
    """Whether ``node`` is a leaf that was changed after ``source`` had been computed from it."""
    return node.watch is not None and node.watch.changed > source.birth and node is not source


def changed(node: Node, source: Node) -> ValueChangedError:
    """The error for a leaf that was changed after ``source`` had been computed from it."""
    by = node.watch.changed_by if node.watch else ""
    return ValueChangedError(
        f"backward: {source.name} read a leaf, {node.dtype} {node.shape}, that {by} has changed"
        " since\n"
        "  expected: forward, backward, and only then a step\n"
        "  hint: run the forward pass again after each change; a state that is carried on has to be"
        "\n  detached, h = h.detach(), or the gradient goes back to before the change"
    )


class Freed(tuple[Edge, ...]):
    """No edges, in place of a node's after the sweep, and where in the user's code that was."""

    def __init__(self) -> None:
        self.where = caller()

    def error(self, node: Node, again: bool = True) -> GraphFreedError:
        """The error for a second pass through the node: from it ``again``, or from a later one."""
        if again:
            return GraphFreedError(
                f"backward: the graph of this tensor, made by {node.name}, was freed by the"
                f" backward pass at {self.where}\n"
                "  expected: one backward pass a graph\n"
                "  hint: compute the loss again, add two losses up before backward(), or pass"
                " retain_graph=True the first time"
            )
        return GraphFreedError(
            f"backward: the graph goes on into one, made by {node.name}, that was freed by the"
            f" backward pass at {self.where}\n"
            "  expected: a graph that begins at leaves and constants\n"
            "  hint: detach the state that is carried from window to window, h = h.detach(), or"
            " detach(state):\n  truncated BPTT; to go on through it, pass retain_graph=True the"
            " first time"
        )
