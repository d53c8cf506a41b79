"""What was recorded, and its circuit: the same graph with the rounds of a loop laid on each other.

The calls are read in the order in which they were made.  A call that does what one before it did,
to the same things, is that box once more; what it takes from an earlier round of itself comes to
the box through a loop.  Along a chain that is recurrence, over a parse it is recursion.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .engine import Node
from .errors import DtypeError, SettingError, described
from .nn.module import Module
from .stale import Freed

__all__ = [
    "LIMIT",
    "TIMES",
    "Call",
    "Kind",
    "forward",
    "layers",
    "named",
    "recorded",
    "repeats",
    "rounds",
]

LIMIT = 400  # boxes in one drawing: what an eye, and a page, can take
TIMES = "\N{MULTIPLICATION SIGN}"
_LETTERS = 22  # at most, in a line of a label
_SHOWN = {"permute": "transpose"}


# ---- what was recorded --------------------------------------------------------------------------


class Call(NamedTuple):
    """A call, a leaf, or named data: ``takes`` are the places and numbers of its arguments."""

    name: str
    shape: tuple[Any, ...]
    takes: list[tuple[int, int]]
    title: tuple[str, int | None] | None
    part: str

    @property
    def sources(self) -> list[int]:
        """The numbers of the arguments."""
        return [i for _, i in self.takes]

    @property
    def key(self) -> tuple[Any, ...]:
        """What calls have in common that may be one box; the first axis is that of a batch."""
        stem = self.title and self.title[0]
        return self.name, self.part, stem, len(self.shape), self.shape[1:]

    def label(self) -> list[str]:
        """The lines of an unfolded box."""
        return labelled(self.name, self.title, described_shape(self.shape))


def named(names: Any, prefix: str = "") -> Iterator[tuple[Any, tuple[str, int | None]]]:
    """The node of each named Tensor, or the identity of the array if it has none, and its name."""
    if isinstance(names, Module):
        names = dict(names.named_parameters())
    for name, value in (names or {}).items():
        title = prefix + str(name)
        if isinstance(value, (Module, Mapping)):
            yield from named(value, title and title + ".")
            continue
        steps = isinstance(value, (list, tuple))
        for t, x in enumerate(value if steps else [value], 1):
            if not hasattr(x, "shape"):
                raise DtypeError(
                    f"draw: names has {title!r} for {described(x)}\n"
                    "  expected: a Tensor, an array, a Module, or a list of Tensors, one a step\n"
                    "  hint: names={'h': [h1, h2], 'net': model}"
                )
            place = getattr(x, "node", None) or id(getattr(x, "array", x))
            yield place, (title, t if steps else None)


def recorded(roots: Sequence[Node], titles: Mapping[Any, Any]) -> list[Call]:
    """The calls behind ``roots``, each after its arguments."""
    seen: set[Node] = set()
    left = list(roots)
    while left:
        node = left.pop()
        if node not in seen:
            if type(node.edges) is Freed:
                raise node.edges.error(node)
            seen.add(node)
            left.extend(node.parents())
    numbers: dict[Any, int] = {}
    calls: list[Call] = []
    for node in sorted(seen, key=lambda node: node.birth):
        takes = []
        for place, source in arguments(node, titles):
            if not isinstance(source, Node):
                array, source = source, id(source)
                if source not in numbers:
                    numbers[source] = len(calls)
                    calls.append(Call("data", array.shape, [], titles[source], ""))
            takes.append((place, numbers[source]))
        numbers[node] = len(calls)
        name = _SHOWN.get(node.name, node.name)
        shape = ("several",) if node.shape is None else tuple(node.shape)
        calls.append(Call(name, shape, takes, titles.get(node), part_of(node)))
    return calls


def arguments(node: Node, titles: Mapping[Any, Any]) -> list[tuple[int, Any]]:
    """The tracked arguments of a call by their places, and the named data among the others."""
    found: list[tuple[int, Any]] = []
    for parent, rule, _ in node.edges:
        if isinstance(parent, tuple):
            found.extend((i, one) for i, one in enumerate(parent) if one is not None)
        else:
            found.append((rule.position, parent))
    known = {place for place, _ in found}
    for _, rule, values in node.edges:
        for value, (place, shape_only) in zip(values, rule.reads, strict=True):
            if id(value) in titles and not shape_only and place not in {*known, rule.y_place}:
                known.add(place)
                found.append((place, value))
    return sorted(found, key=lambda argument: argument[0])


def part_of(node: Node) -> str:
    """The slices in an index behind its first axis: they name a part, as numbers name a step."""
    for _, _, values in node.edges:
        for value in values:
            if isinstance(value, tuple):
                return " ".join(str(one) for one in value[1:] if isinstance(one, slice))
    return ""


# ---- its circuit --------------------------------------------------------------------------------


@dataclass
class Kind:
    """Calls that are one box of the circuit; ``takes`` are the kinds of arguments by place."""

    number: int
    call: Call
    is_input: bool = False
    count: int = 0
    loops: bool = False
    batched: bool = False  # whether the first axis differs from call to call
    takes: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def label(self) -> list[str]:
        """The lines of its box."""
        name, shape, _, title, _ = self.call
        sizes = ["n", *shape[1:]] if self.batched else shape
        text = described_shape(sizes) + (f" {TIMES}{self.count}" if self.count > 1 else "")
        return labelled(name, title and (title[0], None if title[1] is None else "t"), text)


def repeats(calls: Sequence[Call]) -> tuple[list[Kind], list[int], Counter[tuple[int, int]]]:
    """The kinds of calls, the number of each call's kind, and how often each took from each.

    A kind comes after those that it first took from; arrows that lead back close a loop.

    ``behind[i]`` has a bit for each kind among the calls that call i was computed from, and its
    own; so whether call i comes from an earlier round is one bit.
    """
    uses = Counter(p for call in calls for p in call.sources)
    kinds: list[Kind] = []
    by_key: dict[Any, list[Kind]] = defaultdict(list)
    kind_of = [-1] * len(calls)
    behind = [0] * len(calls)

    def join(i: int, kind: Kind) -> None:
        kind_of[i] = kind.number
        kind.count += 1
        kind.batched |= calls[i].shape != kind.call.shape

    def new(i: int, is_input: bool = False) -> Kind:
        kinds.append(Kind(len(kinds), calls[i], is_input))
        if len(kinds) > LIMIT:
            raise SettingError(
                f"draw: more than {LIMIT} boxes, though repeats are one\n"
                "  hint: leaves that differ from step to step may need names: {'x': [x1, x2, ..]}"
            )
        return kinds[-1]

    def is_weight(p: int) -> bool:
        while calls[p].name == "transpose":
            p = calls[p].takes[0][1]
        return not calls[p].takes

    def matching(call: Call) -> tuple[Kind, list[tuple[int, Kind]]] | None:
        """A kind that the call is of, and the inputs that are then of kinds known before."""
        for kind in by_key[call.key]:
            same, weight, inputs, fits = False, False, [], True
            for place, p in call.takes:
                before = kind.takes[place]
                if kind_of[p] in before:
                    same, weight = True, weight or is_weight(p)
                elif kind_of[p] < 0 and (
                    alike := [
                        kinds[k]
                        for k in before
                        if kinds[k].is_input and kinds[k].call.key == calls[p].key
                    ]
                ):
                    inputs.append((p, alike[0]))
                elif not behind[p] >> kind.number & 1:  # nor from an earlier round of this box
                    fits = False
                    break
            if fits and same and (weight or not inputs):
                return kind, inputs
        return None

    for i, call in enumerate(calls):
        if not call.takes:
            if call.title is None and uses[i] == 1:
                continue  # of which kind such an input is, is seen where it is used
            series = by_key[call.key] if call.title and call.title[1] is not None else []
            if not series:
                series.append(new(i))
            join(i, series[0])
            continue
        found = matching(call)
        for p, kind in found[1] if found else []:
            join(p, kind)
        for p in call.sources:
            if kind_of[p] < 0:
                join(p, new(p, is_input=True))
        if found is None:
            found = new(i), []
            by_key[call.key].append(found[0])
        kind = found[0]
        join(i, kind)
        for place, p in call.takes:
            kind.takes[place].add(kind_of[p])
            behind[i] |= behind[p]
        behind[i] |= 1 << kind.number
    for i in range(len(calls)):  # a leaf that is drawn alone
        if kind_of[i] < 0:
            join(i, new(i))
    arrows = Counter((kind_of[p], kind_of[i]) for i, call in enumerate(calls) for p in call.sources)
    for kind, cycle in zip(kinds, cyclic(len(kinds), arrows), strict=True):
        kind.loops = cycle
    return kinds, kind_of, arrows


def cyclic(n: int, arrows: Collection[tuple[int, int]]) -> list[bool]:
    """Whether each of ``n`` kinds lies on a cycle of arrows."""
    above, grown = [0] * n, True  # a bit for each kind that leads there
    while grown:
        grown = False
        for start, end in arrows:
            more = above[end] | above[start] | 1 << start
            grown |= more != above[end]
            above[end] = more
    return [bool(above[k] >> k & 1) for k in range(n)]


def forward(kinds: Sequence[Kind], arrows: Mapping[tuple[int, int], int]) -> list[list[int]]:
    """What each kind takes from, loops apart."""
    sources: list[list[int]] = [[] for _ in kinds]
    for start, end in arrows:
        if start < end:
            sources[end].append(start)
    return sources


def after_loops(kinds: Sequence[Kind], arrows: Mapping[tuple[int, int], int]) -> list[bool]:
    """Whether each kind takes, in the same round, from one in a loop, or from what does."""
    later: list[bool] = []
    for sources in forward(kinds, arrows):
        later.append(any(later[k] or kinds[k].loops for k in sources))
    return later


def layers(kinds: Sequence[Kind], arrows: Mapping[tuple[int, int], int]) -> list[int]:
    """The row of each kind: above all that it takes from, loops apart; inputs under their users."""
    rows: list[int] = []
    sources, later = forward(kinds, arrows), after_loops(kinds, arrows)
    for own in sources:
        rows.append(max([rows[k] + 1 for k in own], default=0))
    for k in reversed(range(len(kinds))):
        users = [rows[end] for end, own in enumerate(sources) if k in own]
        if users and not later[k]:
            rows[k] = min(users) - 1
    return rows


def rounds(
    calls: Sequence[Call],
    kinds: Sequence[Kind],
    kind_of: Sequence[int],
    arrows: Mapping[tuple[int, int], int],
) -> tuple[list[int], bool]:
    """The round of each call, 0 of what all rounds use, and whether the rounds are a tree's.

    A way back leads to the next round.  Where there are no rounds it is as with trees.
    """
    users: list[list[int]] = [[] for _ in calls]
    for i, call in enumerate(calls):
        for p in call.sources:
            users[p].append(i)
    later = after_loops(kinds, arrows)
    round_of, begun = [1] * len(calls), [False] * len(calls)
    for i in reversed(range(len(calls))):
        if kinds[kind_of[i]].count == 1 and not later[kind_of[i]]:
            shared = any(not round_of[j] or kinds[kind_of[j]].count > 1 for j in users[i])
            round_of[i] = 0 if shared else 1
    for i, call in enumerate(calls):
        for p in call.sources:
            begun[i] |= begun[p] or kinds[kind_of[p]].loops
            round_of[i] = max(round_of[i], round_of[p] + (kind_of[p] >= kind_of[i]))
    places = Counter(zip(kind_of, round_of, strict=True))
    upwards = max([n for (k, _), n in places.items() if kinds[k].loops], default=2) > 1
    for i in reversed(range(len(calls))):  # an input stands where it is first used
        early = upwards or not begun[i] or places[kind_of[i], round_of[i]] > 1
        if users[i] and round_of[i] and early:
            round_of[i] = min(round_of[j] - (kind_of[i] >= kind_of[j]) for j in users[i])
    return round_of, upwards


def labelled(name: str, title: tuple[str, Any] | None, shape: str) -> list[str]:
    """The lines of a label: names are cut, and what no file may hold is replaced."""
    lines = [name, shape]
    if title is not None:
        step = "" if title[1] is None else f"^{title[1]}"
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in title[0])
        room = _LETTERS - len(step)
        text = (text if len(text) <= room else text[: room - 1] + "…") + step
        lines = [text, shape if name in ("leaf", "data") else f"{name} {shape}"]
    return lines


def described_shape(sizes: Sequence[Any]) -> str:
    """A shape in few letters, its sides joined; a single number has none."""
    return TIMES.join(map(str, sizes)) if len(sizes) else "number"
