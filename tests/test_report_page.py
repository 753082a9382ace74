"""The report of an evaluation: one page, its charts, and numbers that are right."""

import html.parser
import itertools
import json
import math
import re

import numpy as np
import pytest
from scipy.stats import norm

from sdfl_jax import report
from sdfl_jax.drawing import figures
from sdfl_jax.errors import InputError
from sdfl_jax.report import charts, curves, facts, tables
from sdfl_jax.report.training_log import read_log
from tests import evaluations

CHARTS = (
    "ROC curve of image scores",
    "DET curve of image scores",
    "Precision and recall of images",
    "Precision and recall of pixels",
    "Reliability diagram",
    "Confusion matrix",
    "Scores of both classes",
    "Metrics at every threshold",
    "Pixel F1 by kind of manipulation",
    "Pixel F1 by manipulated share of the image",
    "Robustness",
    "Loss and accuracy over training",
)
VOID = {"img", "meta"}


class Page(html.parser.HTMLParser):
    """Collects tags, texts and alternative texts; asserts that tags are closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.alts, self.sources, self.rows, self.ids = [], [], [], [], []
        self.links = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.alts.append(attrs["alt"])
            self.sources.append(attrs["src"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "a":
            self.links.append(attrs["href"])
        assert tag not in ("script", "link", "iframe")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture(autouse=True)
def small_charts(monkeypatch):
    """Charts are drawn, in few pixels: this is about pages, and drawing is slow."""

    def png(figure):
        figure.set_dpi(20)
        figure.canvas.draw()
        return b"\x89PNG " + type(figure).__name__.encode()

    monkeypatch.setattr(figures, "png", png)


@pytest.fixture(scope="module")
def gallery():
    rng = np.random.default_rng(0)
    found = report.Gallery(kept=2, side=32)
    for i in range(12):
        mask = np.zeros((48, 64), np.uint8)
        mask[: 4 * i] = 255 * (i % 2)
        found.offer(
            {
                "image": rng.integers(0, 256, (48, 64, 3), np.uint8),
                "original_mask": mask,
                "name": f"<b>{i}\udcff.png",
                "kind": "splice" if i % 2 else "",
                "label": i % 2,
                "has_mask": i != 5,
            },
            rng.random((48, 64), np.float32),
        )
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    strengths = {"unit": "quality", "strength": [100, 50]}
    robustness = {"jpeg": strengths | {"pixel_f1_manipulated": [0.5, None]}}
    card = {"versions": {"jax": "1 < 2"}}
    videos = {"videos": 2, "frame": {"image_f1": 0.25}, "video": {"image_f1": 0.75}}
    return evaluations.write(
        tmp_path_factory.mktemp("report"),
        count=40,
        extra={"robustness": robustness, "model_card": card, "videos": videos},
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    log = report.Log(workdir)
    for step in range(1, 6):
        log.write(step, {"loss": 1 / step, "accuracy": 0.5, "grad_norm": math.nan})
    log.write(5, {"val/loss": 0.3, "val/image_accuracy": 0.8, "val/image_auc": None})
    log.close()
    return workdir


def written(folder, **options) -> str:
    report.write_report(folder, **options)
    return (folder / "report.html").read_text()


def test_the_page_holds_every_chart_and_needs_no_other_file(folder, gallery, workdir):
    text = written(folder, gallery=gallery, workdir=workdir)
    found = Page(text)
    assert [alt for alt in found.alts if alt] == list(CHARTS)
    assert all(source.startswith("data:image/") for source in found.sources)
    assert not re.search(r"https?:|//|url\(|@import", re.sub(r'src="[^"]*"', "", text))
    assert {link.removeprefix("#") for link in found.links} == set(found.ids)
    assert "&lt;b&gt;11\\udcff.png" in text and "1 &lt; 2" in text
    assert "NaN" not in text and "nan" not in re.findall(r">([^<]*)<", text)


def test_the_numbers_of_the_page_are_those_of_the_file(folder):
    scores = json.loads((folder / "metrics.json").read_text())
    rows = Page(written(folder)).rows
    first = next(i for i, row in enumerate(rows) if row[0] == "metric")
    table = [row for row in rows[first:] if len(row) == 6]
    assert table[0][-1] == "key in metrics.json"
    starts = [i for i, row in enumerate(table) if row[0] == "metric"]
    parts = [table[a:b] for a, b in itertools.pairwise([*starts, None])]
    for protocol, part in zip(facts.PROTOCOLS, parts, strict=True):
        shown = {row[-1]: row for row in part if row[0] != "metric"}
        figures = {
            key: value
            for key, value in scores[protocol].items()
            if isinstance(value, float | None) and key != "threshold"
        }
        assert shown.keys() == figures.keys()
        for key, value in figures.items():
            assert shown[key][1] == ("" if value is None else f"{value:.3f}")
            bounds = scores["intervals"][protocol].get(key)
            expected = "{:.3f} to {:.3f}".format(*bounds) if None not in bounds else ""
            assert shown[key][2] == expected
            calibrated = scores["validation_threshold"][protocol][key]
            assert shown[key][3] == ("" if calibrated is None else f"{calibrated:.3f}")
            assert len(shown[key][4]) > 10  # what it is


def test_markdown_says_what_was_measured_and_its_tables_are_whole(folder):
    report.write_report(folder)
    text = (folder / "report.md").read_text()
    for part in (
        "# sdfl on data",
        "- images: 40: 20 manipulated (20 of them with a mask), 20 authentic",
        "manifest sha256 0000",
        "- checkpoint: best, step 3",
        "- best on validation data: of maps 0.45, of image scores 0.4",
        "95 % interval",
        "baseline: centre prior",
        "- copymove (10)",
        "mask area 5-20 %",
        "## Protocol: reference",
        "| quality | pixel F1 |",
        "| metric   | per frame | per video |",
        "| image F1 |     0.250 |     0.750 |",
    ):
        assert part in text
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            bars = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
            assert len(bars) == 1, block


@pytest.mark.parametrize(
    "lacking",
    [
        {"labels": (1,)},
        {"labels": (0,)},
        {"has_mask": False},
        {"count": 1},
        {"labels": (0, 1), "count": 2},
        {"scale": 7.0},
    ],
    ids=["manipulated", "authentic", "no_masks", "one", "two", "no_probabilities"],
)
def test_a_page_bears_what_data_may_lack(tmp_path, lacking):
    folder = evaluations.write(tmp_path, resamples=5, **lacking)
    text = written(folder)
    assert len([alt for alt in Page(text).alts if alt]) >= 7
    assert "nan" not in " ".join(re.findall(r">([^<]*)<", text)).lower().split()
    assert "nan" not in (folder / "report.md").read_text().lower().split()


def test_a_folder_that_is_no_evaluation_is_told_in_one_line(tmp_path):
    with pytest.raises(InputError, match="no metrics.json there"):
        facts.read_scores(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        facts.read_scores(tmp_path)
    (tmp_path / "metrics.json").write_text('{"standard": {}}')
    with pytest.raises(InputError, match="reference"):
        facts.read_scores(tmp_path)


# Gallery


def example(i, f1=None, side=(20, 30)):
    """An example and a map of that pixel F1; authentic without one."""
    mask = np.zeros(side, np.uint8)
    probs = np.zeros(side, np.float32)
    if f1 is not None:
        mask.flat[:100] = 255
        probs.flat[: round(100 * f1 / (2 - f1))] = 1  # recall r: F1 = 2r / (1 + r)
    image = np.full((*side, 3), i % 256, np.uint8)
    known = {"name": str(i), "label": int(f1 is not None), "has_mask": True}
    return {"image": image, "original_mask": mask, **known}, probs


def test_gallery_keeps_the_best_the_worst_and_false_alarms_in_order():
    gallery = report.Gallery(kept=3, side=10)
    scores = np.random.default_rng(0).permutation(np.linspace(0, 1, 40))
    for i, f1 in enumerate(scores):
        gallery.offer(*example(i, f1))
    for i in range(40, 50):
        known, probs = example(i)
        probs.flat[: 10 * (i - 40)] = 0.9
        gallery.offer(known, probs)
    sections = gallery.sections
    order = np.argsort(-scores)
    assert [row["name"] for row in sections["best"]] == [str(i) for i in order[:3]]
    worst = [row["name"] for row in sections["worst"]]
    assert worst == [str(i) for i in order[::-1][:3]]
    assert [row["name"] for row in sections["false_alarms"]] == ["49", "48", "47"]
    assert len(sections["random"]) == 3
    best = sections["best"][0]
    assert best["pixel_f1"] == pytest.approx(1, abs=0.02)
    assert best["image"].shape == (7, 10, 3) and best["mask"].shape == (7, 10)


def test_gallery_draws_evenly_and_holds_no_more_than_it_keeps():
    drawn = np.zeros(30)
    for seed in range(60):
        gallery = report.Gallery(kept=3, side=4, seed=seed)
        for i in range(30):
            gallery.offer(*example(i, 0.5, (10, 10)))
        for row in gallery.sections["random"]:
            drawn[int(row["name"])] += 1
            assert row["image"].base is None  # no view that keeps a batch alive
    assert drawn.sum() == 180
    first, second = drawn[:15].sum(), drawn[15:].sum()
    assert abs(first - second) < 50  # 180 draws: a deviation of 13


def test_gallery_passes_over_what_has_no_image_and_bears_unknown_masks():
    gallery = report.Gallery()
    known, probs = example(0, 0.5)
    gallery.offer({k: v for k, v in known.items() if k != "image"}, probs)
    assert gallery.sections == {}
    gallery.offer(known | {"has_mask": False}, probs)
    (row,) = gallery.sections["random"]
    assert row["mask"] is None and row["pixel_f1"] is None
    assert set(gallery.sections) == {"random"}


# Curves


def lines_of(figure):
    return figure.axes[0].get_lines()


def test_det_axes_are_normal_deviates_and_gaussian_scores_make_a_line():
    rng = np.random.default_rng(0)
    count = 20_000
    label = np.repeat([0, 1], count)
    score = np.concatenate([rng.normal(0, 1, count), rng.normal(2, 1, count)])
    figure = curves.det(label, score, eer=norm.cdf(-1))
    axes = figure.axes[0]
    curve = max(lines_of(figure), key=lambda line: len(line.get_xdata()))
    x, y = curve.get_data()
    # y = -2 - x for unit Gaussians two deviations apart, in normal deviates.
    middle = np.abs(x + 1) < 1
    np.testing.assert_allclose(y[middle], -2 - x[middle], atol=0.1)
    for position, text in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        rate = float(text.get_text().removesuffix(" %")) / 100
        assert position == pytest.approx(norm.ppf(rate))
    assert np.isfinite(x).all() and np.isfinite(y).all()
    texts = [text.get_text() for text in axes.texts]
    assert texts == [f"equal error rate {100 * norm.cdf(-1):.1f} %"]


def test_roc_and_precision_curves_start_and_end_where_they_must():
    label, score = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9])
    x, y = lines_of(curves.roc(label, score))[1].get_data()
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    figure = curves.precision_recall(label, score)
    recall, precision = lines_of(figure)[1].get_data()
    assert recall.max() == 1 and precision[-1] == 1
    assert "average precision 0.833" in [t.get_text() for t in figure.axes[0].texts]


def test_pixel_curve_pools_pixels():
    from sklearn.metrics import average_precision_score

    result = evaluations.evaluation(labels=(1,), count=3)
    figure = curves.pixel_precision_recall(result.histograms)
    pooled = result.histograms.sum(axis=0)
    levels = np.arange(256)
    truth = np.repeat([0, 1], pooled.sum(axis=1)[[0, 2]])
    scores = np.concatenate(
        [np.repeat(levels, pooled[0]), np.repeat(levels, pooled[2])]
    )
    expected = average_precision_score(truth, scores)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert f"average precision {expected:.3f}" in texts


def test_reliability_points_lie_at_mean_score_and_share():
    label = np.array([0, 1, 1, 1, 0, 0])
    score = np.array([0.91, 0.92, 0.93, 0.93, 0.0, 1.0])
    x, y = lines_of(curves.reliability(label, score))[1].get_data()
    np.testing.assert_allclose(x, [0.0, 0.9225, 1.0], atol=1e-6)
    np.testing.assert_allclose(y, [0.0, 0.75, 0.0], atol=1e-6)


def test_robustness_of_older_evaluations_is_read_as_before():
    curve = {"unit": "quality", "pixel_f1_manipulated": [0.5, None]}
    now, before = (
        facts.ways({"robustness": {"jpeg": curve | {name: [100, 50]}}})
        for name in ("strength", "level")
    )
    assert before == now and now["jpeg"]["strengths"] == [100, 50]


def test_every_chart_has_labelled_axes():
    result = evaluations.evaluation(count=20)
    label, score = result.label, result.score
    threshold_curve = {
        "threshold": [0, 0.5, 1],
        "pixel_f1_manipulated": [0.1, 0.5, None],
    }
    lines = [{"step": i, "loss": 1.0, "val/image_accuracy": 0.5} for i in range(3)]
    ways = {
        "blur": {"unit": "side, pixels", "strengths": [3, 5], "metrics": {"a": [1, 0]}}
    }
    figures = [
        curves.roc(label, score),
        curves.det(label, score),
        curves.precision_recall(label, score),
        curves.reliability(label, score),
        curves.scores(label, score, 0.5),
        charts.thresholds(threshold_curve, {}),
        charts.groups({"splice": (0.5, 3)}, "pixel F1"),
        charts.training(lines),
        charts.robustness(ways, {}, {"a": 0.5}),
        charts.heat_maps(
            {"IoU": [[0.5, None]]}, ["a"], ["b", "c"], "tested", "trained"
        ),
    ]
    for figure in figures:
        for axes in figure.axes:
            assert axes.get_xlabel()
            assert axes.get_ylabel() or axes.get_yticklabels()


def test_training_curves_hold_every_logged_value(workdir):
    figure = charts.training(read_log(workdir), step=5)
    left, right = figure.axes
    x, y = left.get_lines()[0].get_data()
    np.testing.assert_allclose(x, [1, 2, 3, 4, 5])
    np.testing.assert_allclose(y, [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert [t.get_text() for t in right.texts] == ["image accuracy"]
    np.testing.assert_allclose(right.get_lines()[0].get_ydata(), 5 * [0.5])
    assert charts.training([]).axes == []  # says that nothing was logged


def test_headings_tell_figures_apart():
    from sdfl_jax.metrics import METRICS

    for named in METRICS.values():
        names = [tables.heading(key) for key in named]
        assert len(set(names)) == len(names)
    assert tables.heading("pixel_f1_manipulated") == "pixel F1"
    assert tables.heading("pixel_iou_oracle_dataset_manipulated") == (
        "pixel IoU (oracle, one threshold)"
    )


def test_names_beside_points_of_the_same_height_do_not_lie_on_each_other():
    points = {f"network{i}": (10.0**i, 0.1 + 0.001 * i) for i in range(12)}
    points["best"] = (1.0, 0.9)
    figure = charts.trade_offs({"size": points, "speed": points}, "F1")
    for axes in figure.axes:
        heights = sorted(text.xyann[1] for text in axes.texts)
        low, high = axes.get_ylim()
        assert len(heights) == 13 and low <= heights[0] and heights[-1] <= high
        gaps = [b - a for a, b in itertools.pairwise(heights)]
        assert min(gaps) >= 0.049 * (high - low)
