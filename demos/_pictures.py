"""Pictures of tables: rows and columns with names, the darker the more."""

import csv


def heat_map(run, name, table, rows, columns, axes_labels, label):
    """Write `table`, numbers from 0 to 1, to NAME.csv and draw it in NAME.png.

    `axes_labels` say what the columns and the rows are, `label` what the numbers are.
    """
    with run.path(name + ".csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(["", *columns])
        csv.writer(file).writerows([row, *line] for row, line in zip(rows, table, strict=True))
    figure = run.figure(name, (2 + 0.4 * len(columns), 1 + 0.3 * len(rows)))
    if figure is None:
        return
    axes = figure.subplots()
    image = axes.imshow(table, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    turned = max(len(str(column)) for column in columns) > 3  # else words would overlap
    axes.set_xticks(range(len(columns)), columns, rotation=90 if turned else 0, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)  # a word may hold dollar signs
    axes.set(xlabel=axes_labels[0], ylabel=axes_labels[1])
    figure.colorbar(image, label=label)
    figure.savefig(run.path(name + ".png"), dpi=120)
