"""Words in a plane: the two directions in which vectors differ most, written and drawn."""

import csv

import numpy as np

COLOURS = ["tab:blue", "tab:red", "tab:green", "tab:orange"]


def plane(x):
    """Two coordinates of each row of x: its place along the two largest singular vectors."""
    left, values, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    return left[:, :2] * values[:2]


def draw(run, name, words, places, kind, lines):
    """Write NAME.csv, and NAME.png with one panel for each of `places`, {title: (N, 2)}.

    `words` are the N words, `kind` says what each is, "" for nothing in particular; `lines` (M, 2)
    are pairs of numbers of words, a word and its twin, to be joined.
    """
    with run.path(name + ".csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(["way", "word", "kind", "x", "y"])
        for title, xy in places.items():
            rows = zip(words, kind, *xy.T, strict=True)
            csv.writer(file).writerows([title, *row] for row in rows)
    figure = run.figure(name, (6 * len(places), 6.5))
    if figure is None:
        return
    colours = dict(zip(sorted(set(kind) - {""}), COLOURS)) | {"": "black"}
    panels = figure.subplots(1, len(places), squeeze=False)[0]
    for axes, (title, xy) in zip(panels, places.items(), strict=True):
        for pair in lines:
            axes.plot(*xy[pair].T, color="lightgrey", linewidth=0.8)
        for word, place, k in zip(words, xy, kind, strict=True):
            axes.annotate(word, place, fontsize=6, color=colours[k], ha="center", va="center")
        axes.update_datalim(xy)
        axes.autoscale_view()
        axes.set_title(title)
    key = [f"{c.removeprefix('tab:')}: {k}" for k, c in colours.items() if k]
    figure.suptitle(", ".join([*key, "lines: twins"]))
    figure.savefig(run.path(name + ".png"), dpi=110)
