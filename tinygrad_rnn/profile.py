"""Where time and memory go: by operation, by module and by time step, forward and backward.

    with profile() as p:
        loss = model(x)
        loss.backward()
    print(p)

What a call and its VJPs take is written to the module and the step in which the call was made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

from . import meter
from .backend import is_array
from .backward import is_rows
from .costs import Key, Profile, Scene, Use
from .cotangents import Sum, Term
from .engine import Node, Operation, Rule
from .errors import expect_bool
from .meter import Meter, plain, timed
from .observer import observing
from .place import loop_line
from .structure import Group, Structure

__all__ = ["profile"]


@contextmanager
def profile(steps: bool = False) -> Iterator[Profile]:
    """A context that gives a Profile of what runs inside, in this thread; ``print`` it afterwards.

    A layer may run as one operation over all time steps, and is told as one; with ``steps`` it runs
    step by step, which takes longer, and each step is told.

    The time of a call is that of its body, on arrays, and on the way back of its VJPs and of adding
    up what they send.  What is left of the block's time is the engine's and your own Python's.
    What the profile itself takes is told apart as far as it can time itself; small operations look
    somewhat longer than they are.  Of arrays on a GPU, times are those of launching, and nothing is
    in BLAS.

    In a profile inside another the inner one looks on alone.  SettingError if ``detect_anomaly`` is
    on, for its checks would be timed.
    """
    hint = "with tg.profile() as p: loss = model(x), and print(p) below the block"
    expect_bool("profile", "steps", steps, hint)
    profiler = Profiler(steps)
    found = profiler.found
    with observing(profiler):
        began = meter.clock()
        try:
            yield found
        finally:
            found.wall, found.overhead = meter.clock() - began, profiler.overhead
            found.peak = profiler.held.peak
            profiler.let_go()


class Profiler(Meter):
    """The observer that fills a Profile, ``found``."""

    name = "profile"

    def __init__(self, sees_steps: bool) -> None:
        super().__init__()
        self.sees_steps, self.found = sees_steps, Profile()
        self.scene, self.way = Scene(), "forward"  # of what runs now
        self.called = Scene()  # that of the operation that ran last
        self.inside: dict[tuple[str, ...], Any] = {}  # the Modules by path
        self.paths: dict[Any, tuple[str, ...]] = {}
        self.passes: Counter[Any] = Counter()  # through the lines of loops
        self.held = Held()
        self.swept: Key = ("", Scene())  # the operation whose edges the sweep goes along
        self.rules: dict[Rule, MeteredRule] = {}
        self.senders: dict[Node, Key] = {}  # of terms that wait to be added up

    def let_go(self) -> None:
        """Hold no array, node or Module any more."""
        for held in (self.inside, self.paths, self.rules, self.senders, self.held.refs):
            held.clear()

    # ---- the way forward ----

    def body(self, operation: Operation) -> Callable[..., Any]:
        begun = meter.clock()
        scene = self._of_line()
        key = operation.name, scene

        def metered(*args: Any) -> Any:
            y = self._run(key, self.way, begun, operation.forward, *args, on_arrays=True)
            given = {id(owner) for owner in owners(args)}
            use = self._use(key)
            use.calls += 1
            use.made += sum(owner.nbytes for owner in owners(y) if id(owner) not in given)
            self.called = scene
            self.charge(self.ended)
            return y

        return metered

    def recorded(self, node: Node, operation: Operation, values: Any, y: Any) -> None:
        begun = meter.clock()
        node.origin = self.called
        results = {id(owner) for owner in owners(y)}
        for x, maker in zip(values, makers(node), strict=False):
            for owner in owners(x) if maker is not None else ():
                if maker.name == "leaf":
                    self.held.hold(owner, 0)
                results.add(id(owner))
        use = self._use((operation.name, self.called))
        for _, _, kept in node.edges:
            for owner in owners(kept):
                if id(owner) in results:
                    use.kept += self.held.hold(owner, owner.nbytes)
        self.charge(begun)

    def forward(self, module: Any) -> Callable[..., Any]:
        begun = meter.clock()
        outer = self.scene
        path = self._path(module)
        self.found.entered[path] += 1
        own_loops = getattr(module, "loops_over_time", True)
        inner = Scene(path, outer.step if own_loops else self._of_line().step)

        def run(*args: Any, **kwargs: Any) -> Any:
            self.scene = inner
            try:
                return module.forward(*args, **kwargs)
            finally:
                self.scene = outer

        self.charge(begun)
        return run

    def groups(self, structure: Structure) -> Iterator[Group]:
        outer = self.scene
        try:
            for group in structure.schedule:
                height = int(structure.heights[structure.order[group.start]])
                self.scene = Scene(outer.module, (None, height))
                yield group
        finally:
            self.scene = outer

    # ---- the way back ----

    def watching(self, arrive: Callable[..., None]) -> Callable[..., None]:
        if not self.running:
            self.passes.clear()

        def metered(node: Node, g: Any, source: Node) -> None:
            begun = meter.clock()
            key = self._key(source)
            if isinstance(g, Term) and self.senders.setdefault(node, key) != key:
                self.senders[node] = key[0], Scene(key[1].module)  # what several send: of no step
            self._run(key, "backward", begun, arrive, node, g, source)

        return metered

    def edges(self, node: Node) -> Any:
        begun = meter.clock()
        self.swept = self._key(node)
        edges = []
        for parent, rule, values in node.edges:
            if rule not in self.rules:
                self.rules[rule] = MeteredRule(rule, self._metered(rule))
            edges.append((parent, self.rules[rule], values))
        self.charge(begun)
        return edges

    def _metered(self, rule: Rule) -> Callable[..., Any]:
        """The VJP of ``rule``, metered."""
        vjp = rule.vjp if rule.position is not None else lambda *args: list(rule.vjp(*args))

        def metered(*args: Any) -> Any:
            begun = meter.clock()
            key = self.swept
            y = self._run(key, "backward", begun, vjp, *args, on_arrays=True)
            self._use(key).sent += bytes_of(y)
            self.charge(self.ended)
            return y

        return metered

    def settling(self, settled: Callable[..., Any]) -> Callable[..., Any]:
        def metered(node: Node, g: Any, keeps: bool) -> Any:
            begun = meter.clock()
            key = self.senders.pop(node, None) or self._key(node)
            g = self._run(key, "backward", begun, settled, node, g, keeps)
            if isinstance(g, Term) and not node.edges and not is_rows(g):
                return self._run(key, "backward", self.ended, written_out, g)
            return g

        return metered

    # ---- who, and where ----

    def _run(
        self,
        key: Key,
        way: str,
        begun: float,
        function: Callable[..., Any],
        *args: Any,
        on_arrays: bool = False,
    ) -> Any:
        """``function(*args)``, metered as a call of ``key``; ``on_arrays`` that it may multiply."""
        outer = self.scene, self.way, self.timing
        (name, self.scene), self.way, self.timing = key, way, on_arrays
        if on_arrays:
            args = timed(args)
        try:
            y = self.run(name, self._use(key), way, begun, function, *args)
        finally:
            self.scene, self.way, self.timing = outer
        return plain(y) if on_arrays else y

    def _use(self, key: Key) -> Use:
        if key not in self.found.uses:
            self.found.uses[key] = Use()
        return self.found.uses[key]

    def _key(self, node: Node) -> Key:
        """The operation that ``node`` recorded, and where."""
        if node.name.endswith("]") and node.edges:  # one of several results
            node = node.edges[0][0]
        return node.name, node.origin if isinstance(node.origin, Scene) else Scene()

    def _of_line(self) -> Scene:
        """This scene; where it has no step yet, that is the pass through the user's line."""
        calls = None if self.scene.step is not None else loop_line()
        if calls is None:
            return self.scene
        line = self.scene.module, calls
        self.passes[line] += 1
        if self.passes[line] > 1:
            self.found.loops.add(line)
        return Scene(self.scene.module, (line, self.passes[line] - 1))

    def _path(self, module: Any) -> tuple[str, ...]:
        """The path to ``module``: names of attributes, or of classes where it is none."""
        outer = self.scene.module
        around = self.inside.get(outer)
        if around is module:
            return outer
        if (outer, id(module)) not in self.paths:
            name = around.name_of(module) if around is not None else None
            kind, n = type(module).__name__, 1
            while name is None or (*outer, name) in self.inside:
                name, n = kind if n == 1 else f"{kind} ({n})", n + 1
            self.paths[outer, id(module)] = (*outer, name)
            self.inside[*outer, name] = module
        return self.paths[outer, id(module)]


class MeteredRule(Rule):
    """A rule with another VJP, which reads the same."""

    __slots__ = ()

    def __init__(self, rule: Rule, vjp: Callable[..., Any]) -> None:
        for name in Rule.__slots__:
            setattr(self, name, getattr(rule, name))
        self.vjp = vjp


class Held:
    """Bytes that are held, each array's as long as it lives: ``now``, and at most, ``peak``."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self.refs: dict[int, Any] = {}

    def hold(self, array: Any, nbytes: int) -> int:
        """The bytes that are held in addition: none, if ``array`` is held already."""
        key = id(array)
        if key in self.refs:
            return 0

        def let_go(_: Any) -> None:
            del self.refs[key]
            self.now -= nbytes

        self.refs[key] = ref(array, let_go)
        self.now += nbytes
        self.peak = max(self.peak, self.now)
        return nbytes


def owners(x: Any) -> list[Any]:
    """The arrays that own the memory of ``x``, an array or a tuple or list of them."""
    if isinstance(x, (tuple, list)):
        return [owner for part in x for owner in owners(part)]
    if not is_array(x):
        return []
    while x.base is not None and is_array(x.base):
        x = x.base
    return [x]


def makers(node: Node) -> list[Any]:
    """The node of each argument of the call that ``node`` recorded, None for a constant."""
    found: dict[int, Any] = {}
    for parent, rule, _ in node.edges:
        if rule.position is None:
            return list(parent)
        found[rule.position] = parent
    return [found.get(i) for i in range(max(found) + 1)]


def bytes_of(g: Any) -> int:
    """The bytes of cotangents."""
    if isinstance(g, (tuple, list)):
        return sum(map(bytes_of, g))
    return getattr(getattr(g, "array", g), "nbytes", 0)


def written_out(g: Term) -> Sum:
    """The term as a Sum that has been written out."""
    total = g if isinstance(g, Sum) else Sum(g.shape, g.dtype).include(g)
    total.dense()
    return total
