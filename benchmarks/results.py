r"""What `benchmarks/gpu.sh` measured, and the table of it.

python -m benchmarks.results                       # the table of all devices
python -m benchmarks.results --write=README.md     # between the marks in that file

Every file of `benchmarks/results` holds what one kind of device reached: under `parts`
the figures of each part as its benchmark wrote them, its seconds and exit status (124:
its time was over, and figures are those until then). A figure that was not measured is
not in the table.
"""

import argparse
import json
import re
import statistics
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
NOTHING = "On GPUs nothing has been measured yet."
_MARKS = re.compile(r"(<!-- GPUs -->\n).*?(\n<!-- end -->)", re.DOTALL)


def add(out: Path, name: str, figures: Path, seconds: int, status: int) -> Path:
    """Adds one part to its device's file."""
    import jax

    device = jax.local_devices()[0].device_kind
    path = out / f"{re.sub(r'[^A-Za-z0-9]+', '_', device).strip('_')}.json"
    found = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    found |= {"device": device, "jax": jax.__version__}
    part = {"seconds": seconds, "status": status}
    if figures.exists():
        part["figures"] = json.loads(figures.read_text())
    found["parts"][name] = part
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(found, indent=1) + "\n")
    beside.replace(path)
    return path


def lines(found: dict) -> list[tuple[str, str]]:
    """What a device's file says, each as what and how much."""
    told = []
    parts = found["parts"]
    figures = lambda name: parts.get(name, {}).get("figures", {})
    if parts.get("kernel", {}).get("status") == 0:
        told.append(
            ("pooling kernel against its plain form, values, gradients", "equal")
        )
    for name in ("train", "train_float32"):
        side = figures(name).get("image_size")
        for table in figures(name).get("tables", ()):
            ours = table["results"]["sdfl_jax"]
            rate = table["batch"] / ours["median"]
            text = f"{rate:.1f} images/s, {ours['peak_memory']:.1f} GiB"
            for peer, ratio in table["ratios"].items():
                text += f"; {1 / ratio:.2f} times {peer}"
            what = f"training {figures(name)['network']}, {side}x{side}, batch "
            told.append((f"{what}{table['batch']}, {table['precision']}", text))
    if evaluated := figures("evaluate"):
        rates = evaluated["images_per_second"]
        median = {side: statistics.median(values) for side, values in rates.items()}
        side = evaluated["image_size"]
        what = f"evaluation, {evaluated['network']}, {side}x{side}"
        text = f"{median['network']:.0f} images/s the network, "
        told.append((what, f"{text}{median['end to end']:.0f} end to end"))
    for row in figures("pooling").get("rows", ()):
        if row.get("share_of_copy") and row["version"].startswith(("xla", "pallas")):
            B, H, W, C = row["shape"]
            what = f"pooling {B}x{H}x{W}x{C} {row['dtype']}, {row['mode']}"
            share = f"{row['share_of_copy']:.0%} of a copy's bandwidth"
            told.append((f"{what}, {row['version']}", share))
    return told


def table(folder: Path) -> str:
    """Markdown of all devices but CPUs, on which the script only rehearses."""
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    rows = [
        f"| {found['device']} | {what} | {text} |"
        for found in files
        if found["device"] != "cpu"
        for what, text in lines(found)
    ]
    if not rows:
        return NOTHING
    return "\n".join(["| device | what | measured |", "| --- | --- | --- |", *rows])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("--out", type=Path, default=RESULTS, help="folder of the results")
    option("--write", type=Path, help="file whose marked lines become the table")
    option("--add", help="name of a part that was run")
    option("--figures", type=Path, help="what its benchmark wrote, if anything")
    option("--seconds", type=int, help="that it took")
    option("--status", type=int, help="its exit status")
    args = parser.parse_args()
    if args.add:
        add(args.out, args.add, args.figures, args.seconds, args.status)
    elif args.write:
        text = args.write.read_text()
        if not _MARKS.search(text):
            raise SystemExit(
                f"{args.write}: has no line <!-- GPUs --> ... <!-- end -->."
            )
        made = table(args.out)
        args.write.write_text(_MARKS.sub(lambda m: m[1] + made + m[2], text))
    else:
        print(table(args.out))


if __name__ == "__main__":
    main()
