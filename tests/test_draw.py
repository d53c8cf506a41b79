"""``draw``: what was recorded, no more and no less, in boxes that can be told apart."""

import re
from collections import Counter
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from .drawings import (
    NETS,
    TIMES,
    D,
    H,
    bidirectional,
    cells,
    dot_parts,
    elman,
    encoder_decoder,
    graph_of,
    leaf,
    rectangles,
    tree,
    without_counts,
)


@st.composite
def programs(draw):
    """The results of a random program on square matrices: shared, repeated and dead values."""
    values = [leaf(2, 2) for _ in range(draw(st.integers(1, 3)))]
    for _ in range(draw(st.integers(1, 25))):
        a, b = (draw(st.sampled_from(values[-6:])) for _ in "ab")
        kind = draw(st.sampled_from(["tanh", "multiply", "matmul", "stack", "split", "T"]))
        if kind == "split":
            values += tg.split(tg.concatenate([a, b], axis=0), 2, axis=0)
        else:
            make = {
                "tanh": lambda a, b: tg.tanh(a),
                "multiply": lambda a, b: a * b,
                "matmul": lambda a, b: a @ b,
                "stack": lambda a, b: tg.stack([a, b], axis=0)[1],
                "T": lambda a, b: a.T,
            }
            values.append(make[kind](a, b))
    return values[-draw(st.integers(1, 3)) :]


# ---- the laws ------------------------------------------------------------------------------------


@given(programs())
def test_each_node_and_each_edge_is_drawn_once_unfolded(ys):
    nodes, edges = graph_of(ys)
    boxes, arrows = dot_parts(tg.draw(ys).dot())
    assert list(boxes) == [f"n{i}" for i in range(len(nodes))]
    assert Counter(arrows) == Counter((f"n{a}", f"n{b}") for a, b in edges)
    for node, label in zip(nodes, boxes.values(), strict=True):
        assert label.split("\\n")[0] == node.name


@pytest.mark.parametrize("name", NETS)
def test_each_node_and_each_edge_of_a_net_is_drawn_once_unfolded(name):
    y, names = NETS[name](3)
    nodes, edges = graph_of(y if isinstance(y, list) else [y])
    drawing = tg.draw(y, names=names)
    data = [box for box in drawing.boxes if box.lines[0].startswith("x^")]
    extra = len(data) if name == "elman, data" else 0
    boxes, arrows = dot_parts(drawing.dot())
    assert len(boxes) == len(nodes) + extra and len(arrows) == len(edges) + extra


@given(programs())
def test_a_circuit_has_all_calls_and_arrows_of_the_graph(ys):
    """Each call is counted in one box of its name, and where there is an edge is an arrow."""
    nodes, edges = graph_of(ys)
    boxes, arrows = dot_parts(tg.draw(ys, collapsed=True).dot())
    counts = Counter()
    for label in boxes.values():
        times = re.search(r" \N{MULTIPLICATION SIGN}(\d+)$", label)
        counts[label.split("\\n")[0]] += int(times[1]) if times else 1
    names = [node.name for node in nodes]
    assert counts == Counter(names)
    assert len(arrows) == len(set(arrows))
    drawn = {(boxes[a].split("\\n")[0], boxes[b].split("\\n")[0]) for a, b in arrows}
    assert drawn == {(names[a], names[b]) for a, b in edges}


@pytest.mark.parametrize("name", NETS)
def test_the_circuit_of_a_net_is_the_same_for_any_number_of_steps(name):
    """A fold fills rows: of 2 steps, none of them a second time with c."""
    circuits = []
    for T in (3, 4, 6) if name == "layer" else (2, 3, 6):
        y, names = NETS[name](T)
        circuits.append(without_counts(tg.draw(y, collapsed=True, names=names).dot()))
    assert circuits[0] == circuits[1] == circuits[2]
    assert '[label=""' in circuits[0]  # a loop, whose count was its whole label


@given(T=st.integers(2, 9), named=st.booleans(), tracked=st.booleans())
def test_the_circuit_of_the_lecture_is_the_lectures(T, named, tracked):
    """U, W, V, b, one box for each operation of the formula, and two loops: h and the sum E."""
    y, names = elman(T, tracked, named)
    drawing = tg.draw(y, collapsed=True, names=names)
    boxes, arrows = dot_parts(drawing.dot())
    times = "\N{MULTIPLICATION SIGN}"
    has_x = tracked or named
    operations = Counter(box.lines[1].split()[0] for box in drawing.boxes) if named else None
    if named:
        titles = [box.lines[0] for box in drawing.boxes]
        for title in ("U", "W", "V", "b", "x^t", "h^t"):
            assert titles.count(title) == 1
        assert titles.count("matmul") == 3 and titles.count("transpose") == 3
        assert operations["tanh"] == 1
    assert len(boxes) == 4 + has_x + 3 + 3 + 2 + 1 + 1 + 1  # W.T, @, +, tanh, sum, E
    loops = [arrow for arrow in drawing.arrows if arrow.lane is not None]
    assert [arrow.text for arrow in loops] == [f"{times}{T - 1}"] * 2
    assert len(arrows) == len(set(arrows)) == 16 + has_x


def test_layers_and_gates_of_equal_shape_are_not_taken_for_rounds():
    def boxes_of(name, net):
        return [box.lines[0] for box in tg.draw(net[0], True, net[1]).boxes].count(name)

    assert boxes_of("tanh", cells(nn.RNNCell, nn.RNNCell, nn.RNNCell)(4)) == 3
    assert boxes_of("tanh", bidirectional(4)) == 2
    assert boxes_of("gru_gates", encoder_decoder(4)) == 2
    assert boxes_of("sigmoid", cells(nn.PeepholeLSTMCell)(4)) == 3
    h, layers = np.ones((1, H), np.float32), [nn.Linear(H, H) for _ in range(3)]
    for one in layers:
        h = tg.tanh(one(h))
    assert boxes_of("tanh", (h, None)) == 3
    again = np.ones((1, H), np.float32)
    for _ in range(3):
        again = tg.tanh(layers[0](again))
    assert boxes_of("tanh", (again, None)) == 1  # one layer three times is a recurrent net


def test_two_readouts_of_one_state_are_two_boxes():
    """Though both are used once, as inputs are: what they share is no weight but a state."""
    h = tg.tanh(leaf(1, H) @ leaf(H, H))
    heads = [h @ leaf(H, D), h @ leaf(H, D)]
    boxes = tg.draw(heads, collapsed=True).boxes
    assert len(boxes) == 8 and not any(box.lines[1].split()[-1] == TIMES + "2" for box in boxes)


@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_no_boxes_overlap_and_all_are_on_the_page(name, collapsed):
    y, names = NETS[name](3)
    text = tg.draw(y, collapsed, names).svg()
    found, lines = rectangles(text)
    assert len(found) == len(lines) == len(tg.draw(y, collapsed, names).boxes)
    for (a, b, c, d), (p, q, r, s) in combinations(found, 2):
        assert c < p or r < a or d < q or s < b
    width, height = map(float, ElementTree.fromstring(text).get("viewBox").split()[2:])
    assert all(a > 0 and b > 0 and c < width and d < height for a, b, c, d in found)


@given(programs(), st.booleans())
def test_no_boxes_overlap_whatever_was_computed(ys, collapsed):
    found, _ = rectangles(tg.draw(ys, collapsed).svg())
    for (a, b, c, d), (p, q, r, s) in combinations(found, 2):
        assert c < p or r < a or d < q or s < b


@given(st.text(min_size=1), st.text(min_size=1), st.booleans())
def test_any_name_is_safe(first, second, collapsed):
    """The picture stays one well-formed element, the DOT text one statement a line."""
    W, x = leaf(H, H), leaf(1, H)
    drawing = tg.draw(x @ W, collapsed, {first: W, second + " ": [x]})
    _, lines = rectangles(drawing.svg())
    shown = {line for pair in lines for line in pair}
    if first.isprintable() and len(first) <= 20:
        assert first in shown or first == second + " "
    assert max(map(len, shown)) <= 22
    assert len(dot_parts(drawing.dot())[0]) == 3


@pytest.mark.parametrize("name", ['<script>alert("1")</script>', '"];n0->n1;//', "\\", "a\nb\x00"])
def test_hostile_names_do_nothing(name):
    W = leaf(H, H)
    drawing = tg.draw(tg.tanh(W), names={name: W})
    assert "<script" not in drawing.svg()
    boxes, arrows = dot_parts(drawing.dot())
    assert arrows == [("n0", "n1")]
    lines = boxes["n0"].replace("\\\\", "\0").replace('\\"', '"').split("\\n")
    assert [line.replace("\0", "\\") for line in lines] == drawing.boxes[0].lines
    assert len(rectangles(drawing.svg())[0]) == 2


@pytest.mark.parametrize("name", NETS)
def test_a_drawing_says_the_same_each_time(name):
    texts = set()
    for _ in range(2):
        y, names = NETS[name](3)
        for collapsed in (False, True):
            drawing = tg.draw(y, collapsed, names)
            texts.add((collapsed, drawing.dot(), drawing.svg()))
    assert len(texts) == 2


# ---- how they are laid out -----------------------------------------------------------------------


def test_time_goes_to_the_right():
    y, names = elman(4)
    drawing = tg.draw(y, names=names)
    assert drawing.direction == "LR"
    at = {box.lines[0]: box for box in drawing.boxes}
    rounds = [(at[f"x^{t}"], at[f"h^{t}"]) for t in range(1, 5)]
    for letter in (0, 1):
        assert len({pair[letter].row for pair in rounds}) == 1
        steps = np.diff([pair[letter].x for pair in rounds])
        assert (steps > 1).all() and np.ptp(steps) < 1e-9
    assert all(x.row < h.row for x, h in rounds)
    assert all(at[weight].x < rounds[0][0].x for weight in "UWVb")


def test_what_is_read_at_each_step_is_drawn_at_each_step():
    """As the context of a decoder is: each step's product with it stands where it is used."""
    reader, cell, context, states = nn.RNNCell(H, H), nn.RNNCell(H, H), None, [None]
    for _ in range(3):
        context = reader(leaf(1, H), context)
    for _ in range(4):
        states.append(cell(context, states[-1]))
    drawing = tg.draw(states[-1], names={"c": context, "s": states[1:]})
    at = {box.lines[0]: i for i, box in enumerate(drawing.boxes)}
    products = [drawing.boxes[end].x for start, end, *_ in drawing.arrows if start == at["c"]]
    ends = [drawing.boxes[at[f"s^{t}"]].x for t in range(1, 5)]
    np.testing.assert_allclose(np.diff(products), np.diff(ends))


def test_a_tree_goes_upwards():
    y, names = tree(3)
    drawing = tg.draw(y, names=names)
    assert drawing.direction == "BT"
    for start, end, *_ in drawing.arrows:
        assert drawing.boxes[start].row < drawing.boxes[end].row
    rows = Counter(box.row for box in drawing.boxes if box.lines[0] == "tanh")
    assert sorted(rows.values()) == [1, 2, 4, 8]


def test_a_net_without_rounds_is_one_circuit_both_ways():
    net, x = nn.Linear(D, H), leaf(1, D)
    y, names = tg.tanh(net(x)), {"": net, "x": x}
    assert tg.draw(y, names=names).dot() == tg.draw(y, collapsed=True, names=names).dot()


def test_what_is_used_high_and_low_is_drawn_low():
    W = leaf(H, H)
    y = tg.tanh(tg.tanh(leaf(1, H) @ W) * 2.0 + 1.0) @ (W * 3.0)
    for collapsed in (False, True):
        drawing = tg.draw([y, y * W[0]], collapsed, {"W": W})
        for start, end, lane, _ in drawing.arrows:
            assert lane or drawing.boxes[start].row < drawing.boxes[end].row


@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_no_way_to_the_next_round_goes_through_a_box(name, collapsed):
    y, names = NETS[name](3)
    drawing = tg.draw(y, collapsed, names)
    for start, end, lane, _ in drawing.arrows:
        rows = range(drawing.boxes[end].row, drawing.boxes[start].row + 1)
        for box in drawing.boxes:
            assert lane is None or box.row not in rows or abs(box.x - lane) > 0.5


# ---- names ---------------------------------------------------------------------------------------


def test_names_come_from_modules_dicts_and_lists():
    cell, xs = nn.RNNCell(D, H), [np.ones((1, D), np.float32) for _ in range(2)]
    h = cell(xs[1], cell(xs[0]))
    shown = {box.lines[0] for box in tg.draw(h, names={"cell": cell, "x": xs, "y": h}).boxes}
    assert {"cell.weight_ih", "cell.bias_hh", "x^1", "x^2", "y"} <= shown
    assert "weight_hh" in {box.lines[0] for box in tg.draw(h, names=cell).boxes}


def test_data_without_a_name_are_not_drawn():
    y, names = elman(2, tracked=False)
    del names["x"]
    assert not [box for box in tg.draw(y, names=names).boxes if box.lines[0].startswith("x")]


def test_a_detached_state_is_not_drawn_beside_the_state():
    h = tg.tanh(leaf(1, H))
    boxes = tg.draw(h @ leaf(H, H), names={"h": h.detach()}).boxes
    assert sorted(box.lines[0] for box in boxes) == ["leaf", "leaf", "matmul", "tanh"]


def test_inputs_that_are_used_several_times_collapse_if_they_are_named():
    def net(T):
        V, W, xs, h = leaf(H, H), leaf(H, H), [leaf(1, H) for _ in range(T)], leaf(1, H)
        for x in xs:
            h = x * tg.tanh(x @ V + h @ W)
        return h, {"x": xs}

    boxes = [len(tg.draw(net(T)[0], True, net_names).boxes) for T in (3, 7) for net_names in [None]]
    assert boxes[0] < boxes[1]
    few, many = (tg.draw(y, True, names) for y, names in (net(3), net(7)))
    assert len(few.boxes) == len(many.boxes) == 4 + 5


# ---- long runs, files, errors --------------------------------------------------------------------


@pytest.mark.unwatched
def test_a_long_run_is_collapsed_and_refused_unfolded():
    y, names = elman(10_000)
    with pytest.raises(tg.SettingError, match="collapsed=True"):
        tg.draw(y, names=names)
    drawing = tg.draw(y, collapsed=True, names=names)
    assert "\N{MULTIPLICATION SIGN}9999" in {arrow.text for arrow in drawing.arrows}
    assert len(drawing.boxes) == len(tg.draw(*elman(2)[:1], True).boxes)


def test_what_does_not_collapse_is_refused_early():
    h = leaf(1, 1)
    for _ in range(500):
        h = tg.concatenate([h, h[:, :1]], axis=1)
    with pytest.raises(tg.SettingError, match="repeats are one"):
        tg.draw(h, collapsed=True)


def test_files_and_notebooks(tmp_path):
    drawing = tg.draw(*elman(2)[:1])
    for ending, text in {"svg": drawing.svg(), "dot": drawing.dot(), "gv": drawing.dot()}.items():
        drawing.save(tmp_path / f"net.{ending}")
        assert (tmp_path / f"net.{ending}").read_text(encoding="utf-8") == text
    assert drawing._repr_svg_() == drawing.svg()
    assert "http" not in drawing.svg().replace('xmlns="http://www.w3.org/2000/svg"', "")
    with pytest.raises(tg.SettingError, match=r"\.svg"):
        drawing.save(tmp_path / "net.png")
    assert not (tmp_path / "net.png").exists()


def test_a_leaf_can_be_drawn_alone():
    assert [box.lines for box in tg.draw(leaf(2, 3)).boxes] == [
        ["leaf", "2\N{MULTIPLICATION SIGN}3"]
    ]


@pytest.mark.parametrize("wrong", [3, "y", [], [np.ones(2)], None])
def test_what_is_no_tensor_is_refused(wrong):
    with pytest.raises(tg.DtypeError, match="draw: y is"):
        tg.draw(wrong)


def test_what_has_no_graph_is_refused():
    with pytest.raises(tg.NotTrackedError, match="draw"):
        tg.draw(tg.tensor([1.0]))
    y = tg.sum(tg.tanh(leaf(2)))
    y.backward()
    with pytest.raises(tg.GraphFreedError):
        tg.draw(y)


@pytest.mark.parametrize("wrong", ["W", 3, [leaf(1), None], [(leaf(1), leaf(1))]])
def test_names_of_what_cannot_be_drawn_are_refused(wrong):
    with pytest.raises(tg.DtypeError, match="names has 'W'"):
        tg.draw(tg.tanh(leaf(1)), names={"W": wrong})


def test_drawing_leaves_the_graph_as_it_is():
    y, _ = elman(3)
    edges = [node.edges for node in graph_of([y])[0]]
    tg.draw(y), tg.draw(y, collapsed=True)
    assert all(a is b.edges for a, b in zip(edges, graph_of([y])[0], strict=True))
    y.backward()
