"""The charts of `explore`, each a matplotlib figure of facts."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from sdfl_jax.drawing.figures import (
    CLASS_COLORS,
    CLASSES,
    FAINT,
    chart,
    frame,
    nothing,
    printable,
    tidy,
)

_SOURCES = 8  # with a pie or a curve of their own; the rest is taken together


def classes(counts: Counter) -> Figure:
    """Bars by source and pies; `counts` by (source, label)."""
    totals = Counter()
    for (source, _), number in counts.items():
        totals[source] += number
    order = [source for source, _ in totals.most_common()]
    pies = [None, *order[:_SOURCES]] if len(order) > 1 else [None]
    columns = min(len(pies), 5)
    rows = -(-len(pies) // columns)
    bars = 1.2 + 0.42 * len(order)
    figure = chart(bars + 2.1 * rows)
    above, below = figure.subfigures(2, 1, height_ratios=(bars, 2.1 * rows))
    axes = above.subplots()
    places = np.arange(len(order))
    for label, shift in ((0, -0.2), (1, 0.2)):
        numbers = [counts[source, label] for source in order]
        drawn = axes.barh(
            places + shift,
            numbers,
            0.38,
            color=CLASS_COLORS[label],
            label=CLASSES[label],
        )
        axes.bar_label(drawn, [f"{n:,}" for n in numbers], padding=3, fontsize=8)
    axes.set_yticks(places, [_named(source) for source in order])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("images")
    # Outside: bars of classes of one size leave no corner free.
    above.legend(frameon=False, fontsize=9, loc="outside upper right", ncols=2)
    tidy(axes, "x")
    grid = below.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, source in zip(grid, pies, strict=False):
        numbers = [
            sum(n for (s, l), n in counts.items() if l == label and source in (s, None))
            for label in (0, 1)
        ]
        shown = [(n, c) for n, c in zip(numbers, CLASS_COLORS, strict=True) if n]
        axes.pie(
            [n for n, _ in shown],
            colors=[c for _, c in shown],
            startangle=90,
            counterclock=False,
            autopct=lambda share: f"{share:.0f} %",
            textprops={"color": "white", "fontsize": 9},
            wedgeprops={"linewidth": 1, "edgecolor": "white"},
        )
        title = "all" if source is None else _named(source)
        axes.set_title(title, fontsize=9)
    return figure


def sizes(facts: Sequence) -> Figure:
    """Width against height; the area of a dot grows with the number of images."""
    figure = chart(4.6)
    axes = figure.subplots()
    for label in (0, 1):
        found = Counter((f.width, f.height) for f in facts if f.label == label)
        if found:
            x, y = np.array(list(found)).T
            numbers = np.array(list(found.values()))
            axes.scatter(
                x,
                y,
                12 + 600 * numbers / len(facts),
                color=CLASS_COLORS[label],
                alpha=0.5,
                linewidths=0,
                label=f"{CLASSES[label]}, {len(found)} sizes",
            )
    told: list[tuple[int, int]] = []
    most = max(max(f.width, f.height) for f in facts)
    for (x, y), number in Counter((f.width, f.height) for f in facts).most_common(5):
        # Text on text cannot be read; sizes that differ by a pixel are common.
        alone = all(abs(y - other) > 0.05 * most for _, other in told)
        if alone and number > 0.05 * len(facts):
            told.append((x, y))
            text = f"{x} x {y}: {100 * number / len(facts):.0f} %"
            radius = (12 + 600 * number / len(facts)) ** 0.5 / 2
            axes.annotate(
                text,
                (x, y),
                (radius + 4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    for axis, values in (
        ("x", [f.width for f in facts]),
        ("y", [f.height for f in facts]),
    ):
        low, high = min(values), max(values)
        pad = max(0.12 * (high - low), 0.1 * high)
        getattr(axes, f"set_{axis}lim")(max(0, low - pad), high + pad)
    axes.set(xlabel="width, pixels", ylabel="height, pixels")
    legend = axes.legend(frameon=False, fontsize=9, loc="upper left")
    for handle in legend.legend_handles:
        handle.set_sizes([40])
    tidy(axes, "both")
    return figure


def mask_area(facts: Sequence) -> Figure:
    """Share of the image that is manipulated, by source, over a logarithmic axis."""
    known = [f for f in facts if f.area is not None]
    groups = _by_source([f for f in known if f.area > 0], lambda f: f.area)
    if not groups:
        return nothing("no manipulated image has a mask with a marked pixel")
    figure = chart(3.6)
    axes = figure.subplots()
    low = min(min(values) for values in groups.values())
    bins = np.geomspace(min(low, 0.01), 1, 31)
    names = [
        f"{name} (median {100 * np.median(v):.1f} %)" for name, v in groups.items()
    ]
    axes.hist(list(groups.values()), bins, stacked=True, label=names)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.set(xlabel="manipulated share of the image", ylabel="images")
    empty = sum(f.area == 0 for f in known)
    lacking = sum(f.label == 1 and f.area is None for f in facts)
    if empty or lacking:
        text = f"not shown: {empty} with an empty mask, {lacking} without a mask"
        axes.set_title(text, fontsize=9, color=FAINT, loc="left")
    axes.legend(frameon=False, fontsize=8)
    tidy(axes, "y")
    return figure


def intensity(facts: Sequence) -> Figure:
    """Mean over the images of each class of their histograms, by channel."""
    figure = chart(3)
    grid = figure.subplots(1, 3, sharey=True)
    for channel, (axes, name) in enumerate(
        zip(grid, ("red", "green", "blue"), strict=True)
    ):
        for label in (0, 1):
            rows = [f.intensities[channel] for f in facts if f.label == label]
            if rows:
                mean = np.mean(rows, axis=0)
                axes.plot(
                    100 * mean, color=CLASS_COLORS[label], label=CLASSES[label], lw=1.3
                )
        axes.set_title(name, fontsize=10)
        axes.set_xlim(0, 255)
        axes.set_xticks([0, 64, 128, 192, 255])
        tidy(axes, "y")
    # Pure black and white are often far above all else, and would flatten the rest.
    inner = max(line.get_ydata()[1:-1].max() for a in grid for line in a.get_lines())
    grid[0].set_ylim(0, 1.15 * inner)
    grid[0].set_ylabel("% of pixels")
    grid[1].set_xlabel("value")
    grid[2].legend(frameon=False, fontsize=8)
    return figure


def jpeg_quality(facts: Sequence) -> Figure:
    """Share of the JPEG files of each class at each quality."""
    known = {
        label: [f.quality for f in facts if f.label == label and f.quality is not None]
        for label in (0, 1)
    }
    if not any(known.values()):
        return nothing("no file is a JPEG")
    figure = chart(3)
    axes = figure.subplots()
    bins = np.arange(0.5, 101)
    for label, values in known.items():
        if values:
            axes.hist(
                values,
                bins,
                weights=np.full(len(values), 100 / len(values)),
                color=CLASS_COLORS[label],
                alpha=0.6,
                label=f"{CLASSES[label]} ({len(values):,} JPEG files)",
            )
    lowest = min(min(values) for values in known.values() if values)
    axes.set_xlim(min(lowest - 3, 60), 101)
    axes.set(xlabel="quality (libjpeg's scale)", ylabel="% of the class")
    figure.legend(frameon=False, fontsize=9, loc="outside upper left", ncols=2)
    tidy(axes, "y")
    return figure


def gallery(source: str, rows: Sequence[dict]) -> Figure:
    """Image, mask and edge of examples of one source, side by side."""
    columns = 2 if len(rows) > 1 else 1
    lines = -(-len(rows) // columns)
    figure = chart(0.5 + 1.55 * lines)
    figure.suptitle(_named(source), x=0.01, ha="left", fontsize=12)
    grid = figure.subplots(lines, 6, squeeze=False).reshape(-1, 3)
    for axes in grid.ravel():
        axes.set_axis_off()
    for group, row in zip(grid, rows, strict=False):
        for axes, key in zip(group, ("image", "mask", "edge"), strict=True):
            plane = row[key]
            if plane is None:
                axes.text(
                    0.5, 0.5, f"{key} not known", ha="center", color=FAINT, fontsize=8
                )
                continue
            axes.imshow(plane, cmap="gray", vmin=0, vmax=255)
            height, width = plane.shape[:2]
            frame(axes, height, width)
        what = CLASSES[row["label"]] + (f" ({row['kind']})" if row["kind"] else "")
        titles = (what, "mask", "edge of the mask" if row["derived"] else "edge")
        colors = (CLASS_COLORS[row["label"]], FAINT, FAINT)
        for axes, title, color in zip(group, titles, colors, strict=True):
            if axes.images:
                axes.set_title(printable(title), fontsize=8, color=color, pad=3)
    return figure


def _by_source(facts: Sequence, value) -> dict[str, list]:
    """Values of the largest sources by name; those of the others together."""
    counts = Counter(f.source for f in facts)
    large = [source for source, _ in counts.most_common(_SOURCES)]
    groups = {
        source: [value(f) for f in facts if f.source == source] for source in large
    }
    groups = {_named(source, 200): values for source, values in groups.items()}
    rest = [value(f) for f in facts if f.source not in large]
    return groups | ({"others": rest} if rest else {})


def _named(source: str, most: int = 28) -> str:
    """How a source is called, where the list may have left it empty."""
    source = source if len(source) <= most else f"{source[: most - 3]}..."
    return printable(source) or "(no source)"
