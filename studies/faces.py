"""Networks of whole images: SimpleNet, Xception, DenseNet121, and where they look."""

import shutil

from sdfl_jax.drawing.figures import save
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.report import curves, tables
from sdfl_jax.report.facts import read_scores
from studies import findings
from studies.findings import Claim
from studies.plan import Plan
from studies.steps import Step

TITLE = "SimpleNet, Xception, DenseNet121"

NETWORKS = ("simplenet", "xception", "densenet121")
BASELINES = ("grey", "grad_cam")  # of where, for networks that answer whether


def _trained(plan: Plan, network: str, seed: int) -> Step:
    config = f"faces_{network}"
    return plan.train("faces", network, config, plan.labelled, seed=seed)


def _scored(plan: Plan, network: str, seed: int) -> Step:
    return plan.score(_trained(plan, network, seed), (plan.labelled,))


def _localized(plan: Plan, network: str, way: str) -> Step:
    """The maps that stand in for a mask, on images whose masks are known."""
    return plan.score(
        _trained(plan, network, 0),
        ("shallow",),
        run=f"{network}_{way}/0",
        flags=[f"--image_level_mask={way}"],
    )


def _explained(plan: Plan, network: str) -> Step:
    run, test = _trained(plan, network, 0), plan.shards(plan.labelled, "test")
    out = plan.folder / "explained" / network
    flags = (f"--workdir={run.out}", f"--data={test.out}", f"--out={out}")
    flags += ("--methods=saliency,grad_cam", "--batch_size=16")
    return Step(out, "sdfl_jax.explain", flags, (run, test))


def steps(plan: Plan) -> list[Step]:
    return [
        step
        for network in NETWORKS
        for step in (
            *(_scored(plan, network, seed) for seed in plan.seeds("faces")),
            *(_localized(plan, network, way) for way in BASELINES),
            _explained(plan, network),
        )
    ]


def write(plan: Plan) -> list[str]:
    rows, shown = [], []
    for network in NETWORKS:
        folder = _scored(plan, network, 0).out
        scores, evaluation = read_scores(folder), Evaluation.load(folder)
        standard = scores["standard"]
        row = {"network": network}
        for key in ("image_accuracy", "image_f1", "image_auc", "image_eer"):
            bounds = tables.interval(scores["intervals"]["standard"][key])
            row[key] = f"{tables.cell(standard[key])} ({bounds or '-'})"
        for way in BASELINES:
            localized = read_scores(_localized(plan, network, way).out)
            row[way] = localized["standard"]["pixel_f1_manipulated"]
        everything = localized["baselines"]["everything_manipulated"]
        row["all"] = everything["pixel_f1_manipulated"]
        rows.append(row)
        label, score = evaluation.label, evaluation.score
        counts = scores["reference"]["confusion"]
        drawn = {
            "roc": ("ROC", curves.roc(label, score, f"{network}: ROC")),
            "det": ("DET", curves.det(label, score, standard["image_eer"])),
            "confusion": (
                "Confusion matrix",
                curves.confusion(counts, scores["reference"]["threshold"]),
            ),
        }
        for name, (said, figure) in drawn.items():
            save(figure, plan.picture(f"faces_{network}_{name}"))
            shown.append(plan.shown(f"faces_{network}_{name}", f"{said}: {network}"))
        for name in ("authentic", "manipulated"):
            mean = _explained(plan, network).out / f"mean_{name}.png"
            place = f"faces_{network}_mean_{name}"
            if mean.exists():
                shutil.copy(mean, plan.picture(place))
                said = f"Mean saliency and Grad-CAM of {name} images: {network}"
                shown.append(plan.shown(place, said))
    heads = {"network": "network"}
    heads |= {key: tables.heading(key) for key in rows[0] if key.startswith("image_")}
    heads["grey"] = "pixel F1, grey threshold"
    heads["grad_cam"] = "pixel F1, Grad-CAM"
    heads["all"] = "pixel F1, everything"
    judged = findings.found(_claims(plan), plan.form.resamples)
    return [
        "Networks that say whether an image is manipulated, trained on labels alone"
        + (" (photographs drawn anew as a whole)" if plan.form.forged else "")
        + ", first seed. Where one looks is asked of forgeries with known masks, as "
        "the documents did: by thresholding the grey image, and by Grad-CAM beside it. "
        "`DIR/explained` holds saliency and Grad-CAM of every test image.",
        tables.table(rows, heads),
        *shown,
        findings.table(judged),
        findings.sentences(judged),
    ]


def _claims(plan: Plan) -> list[Claim]:
    reports = {
        network: [_scored(plan, network, seed).out for seed in plan.seeds("faces")]
        for network in NETWORKS
    }

    def claim(said, first, second):
        runs = reports[first], reports[second]
        how = (plan.labelled, "image_accuracy", "higher")
        return Claim(said, (first, second), *runs, *how)

    return [
        claim("Xception is better than SimpleNet", "simplenet", "xception"),
        claim("DenseNet121 is better than SimpleNet", "simplenet", "densenet121"),
    ]
