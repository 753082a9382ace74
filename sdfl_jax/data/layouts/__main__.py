"""Turns a data set's own folders into lists that `sdfl data build` reads.

python -m sdfl_jax.data.layouts NAME --root=DIR --out=DIR

OUT gets paths_{train,val,test}.csv (image, mask, edge, label, source, group, kind),
rejected.csv (path, reason) and, where masks need another form, masks/ with white =
manipulated. All images of one source photograph or video are in one split. Files of the
data set are read, never changed.
"""

import argparse
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sdfl_jax.data import engine
from sdfl_jax.data.layouts import DEEP, FORMS, LAYOUTS, STUDY, TEST_SETS, TRIED
from sdfl_jax.data.layouts.common import Item, Options, Refused
from sdfl_jax.data.layouts.dealing import (
    DEFAULT,
    by_published_lists,
    deal,
    groups_of,
    keep_or_deal,
    parse_ratios,
)
from sdfl_jax.data.layouts.masks import Check
from sdfl_jax.data.lists import COLUMNS, SPLITS
from sdfl_jax.data.planes import WARNINGS
from sdfl_jax.data.setup import setup
from sdfl_jax.data.workers import Workers, each
from sdfl_jax.errors import InputError, one_line, valid
from sdfl_jax.files import write_csv

CHUNK = 256  # images that a worker looks at before it takes more


def lay_out(
    name: str,
    root: str | os.PathLike,
    out: str | os.PathLike,
    *,
    seed: int = 0,
    split: str | None = None,
    lists: str | os.PathLike | None = None,
    strict: bool = False,
    workers: Workers = 0,
    progress: bool = True,
    **settings,
) -> dict[str, dict[str, int]]:
    """Writes the lists of data set `name`; images of each label ("0", "1") by split.

    `split`: None keeps the split of the data set's own folders or lists and deals 8:1:1
    where it has none; ratios deal anew; `study` takes the study's ratios; `published`
    takes the lists in the folder `lists`, or the split that the set is known for.
    `settings` are those of FaceForensics++ (see `common.Options`). `InputError` if
    nothing can be used or, with `strict`, if anything was rejected.
    """
    if name not in LAYOUTS:
        raise InputError(f"No layout {name!r}; {valid(name, LAYOUTS)}")
    root, out = Path(root), Path(out)
    if root.is_dir() and root.resolve() == out.resolve():
        raise InputError(f"--out={out}: the data set lies there; give another folder.")
    if (split == "published") < (lists is not None):
        raise InputError(f"--lists={lists}: needs --split=published.")
    if settings.get("splits") and split not in (None, "published"):
        raise InputError(
            f"--split={split}: --splits says it already; give one of them."
        )
    if seed < 0:
        raise InputError(f"--seed={seed}: 0 or more is expected.")
    ratios = DEFAULT if split in (None, "study", "published") else parse_ratios(split)
    if split == "study":
        ratios = parse_ratios(STUDY.get(name, DEEP))
    _make_folder(out)

    options = Options(
        out=out, seed=seed, workers=workers, progress=progress, **settings
    )
    found, refused = LAYOUTS[name](root, options)
    found, more = _checked(found, root, options)
    refused += more
    _write_rejected(out, refused)
    if strict and refused:
        raise InputError(
            f"{name}: {len(refused)} rejected (see {out / 'rejected.csv'}), the first: "
            f"{refused[0].path}: {refused[0].reason}"
        )

    groups = groups_of(found)
    if lists is not None:
        rows, more = by_published_lists(found, Path(lists))
        refused += more
    else:
        if split in (None, "published"):
            if split == "published":
                _check_published(name, found)
            ratios = parse_ratios("0:0:1") if split and name in TEST_SETS else DEFAULT
            splits = keep_or_deal(found, groups, ratios, seed)
        else:
            found, groups = _once(found, groups)
            splits = deal(found, groups, ratios, seed)
        rows = list(enumerate(splits))
    rows, more = _without_repeats(rows, found)
    refused += more
    _write_rejected(out, refused)
    if not rows:
        first = f"; the first: {refused[0].path}: {refused[0].reason}"
        raise InputError(
            f"--root={root}: nothing to use for {name}, {len(refused)} rejected"
            f"{first if refused else ''}. Expected: {_shape(name)}"
        )
    counts = _write_lists(out, rows, found, groups)
    _tell(name, counts, rows, groups, refused)
    if split is None and name in TEST_SETS:
        print(f"{name}: all of it is a test set to the field: --split=published.")
    return counts


def _checked(items: list[Item], root: Path, options: Options):
    """Items whose files fit, masks converted; the others refused."""
    check = Check(str(root if root.is_dir() else root.parent), str(options.out))
    with tqdm(
        total=len(items),
        desc="checking",
        unit="image",
        disable=not (options.progress and items),
    ) as bar:
        results = list(
            each(
                check,
                items,
                lost=check.lost,
                workers=options.workers,
                chunk=CHUNK,
                bar=bar,
            )
        )
    kept, refused, shares, notes = [], [], [], Counter()
    for result, share, note in results:
        shares += [] if share is None else [share]
        if isinstance(result, Refused):
            refused.append(result)
        elif not _is_text(result):
            reason = "odd name: not UTF-8, or a line break in it"
            refused.append(Refused(result.image, reason))
        else:
            kept.append(result)
            notes[note] += bool(note)
    for note, number in notes.items():
        if note:
            print(f"Warning: {WARNINGS[note]}: {number}x, as it is read by the lists.")
    if shares and sum(share > 0.5 for share in shares) > len(shares) / 2:
        print(
            f"Warning: {sum(share > 0.5 for share in shares)} of {len(shares)} masks "
            "mark more than half of their images once converted; perhaps this copy's "
            "masks are white = manipulated already (then use paths_file)."
        )
    return kept, refused


def _is_text(item: Item) -> bool:
    """Whether a list, one line an image, can hold the item's paths."""
    paths = "".join(filter(None, (item.image, item.mask, item.edge)))
    return paths == paths.encode(errors="replace").decode() and "\n" not in paths


def _check_published(name: str, items: list[Item]):
    if name not in TEST_SETS and not any(item.split for item in items):
        raise InputError(
            f"--split=published: {name} has no split in its folders; give the folder "
            "of the published lists with --lists=DIR."
        )


def _once(items: list[Item], groups: list[str]) -> tuple[list[Item], list[str]]:
    """Each image once, for lists that are dealt anew name it in any split."""
    first = {item.image: index for index, item in reversed(list(enumerate(items)))}
    chosen = sorted(first.values())
    return [items[index] for index in chosen], [groups[index] for index in chosen]


def _without_repeats(rows, items):
    """Rows without what a split lists twice."""
    kept, refused, seen = [], [], set()
    for index, split in rows:
        image = items[index].image
        if (image, split) in seen:
            refused.append(Refused(image, f"listed twice: in {split}"))
            continue
        seen.add((image, split))
        kept.append((index, split))
    return kept, refused


def _make_folder(out: Path):
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(
            f"--out={out}: a file, where a folder is to be made."
        ) from None


def _write_rejected(out: Path, refused: list[Refused]):
    write_csv(out / "rejected.csv", map(vars, refused), ("path", "reason"))


def _write_lists(out: Path, rows, items, groups) -> dict[str, dict[str, int]]:
    counts = {split: {"0": 0, "1": 0} for split in SPLITS}
    table = defaultdict(list)
    for index, split in rows:
        item = items[index]
        counts[split][str(item.label)] += 1
        paths = {key: getattr(item, key) for key in ("image", "mask", "edge")}
        paths = {key: _written(path, out) for key, path in paths.items()}
        rest = {"label": item.label, "source": item.source, "kind": item.kind}
        table[split].append(paths | rest | {"group": groups[index]})
    for split in SPLITS:
        path = out / f"paths_{split}.csv"
        if table[split]:
            lines = sorted(table[split], key=lambda row: row["image"])
            write_csv(path, lines, COLUMNS)
        else:  # of an earlier run with other ratios
            path.unlink(missing_ok=True)
    return counts


def _written(path: str | None, out: Path) -> str:
    """Relative to the list where that moves along with it, absolute elsewhere."""
    if path is None:
        return "None"
    path, out = os.path.abspath(path), os.path.abspath(out)
    inside = os.path.commonpath([path, out]) == out
    return os.path.relpath(path, out) if inside else path


def _tell(name: str, counts, rows, groups, refused):
    total = {label: sum(part[label] for part in counts.values()) for label in "01"}
    each_split = ", ".join(
        f"{split} {part['0']} + {part['1']}" for split, part in counts.items()
    )
    sizes = Counter(filter(None, groups))
    told = f" in {len(sizes)} groups, the largest of {max(sizes.values(), default=0)}"
    print(
        f"{name}: {total['0']} authentic + {total['1']} manipulated images"
        f"{told if sizes else ' of unknown origin'}; {each_split}."
    )
    reasons = Counter(row.reason.split(":")[0] for row in refused)
    told = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    print(
        f"{name}: {len(refused)} rejected"
        + (f" ({told}), see rejected.csv." if refused else ".")
    )
    of_group = defaultdict(set)
    for index, split in rows:
        if groups[index]:
            of_group[groups[index]].add(split)
    leaking = sum(len(splits) > 1 for splits in of_group.values())
    if leaking:
        print(
            f"Warning: {leaking} groups (images of the same photographs or videos) are "
            "in more than one split, as the data set gives it; --split=8:1:1 deals "
            "whole groups."
        )
    for split, part in counts.items():
        if not sum(part.values()):
            print(f"{name}: no image for {split}, so no paths_{split}.csv.")


def _shape(name: str) -> str:
    return " ".join(LAYOUTS[name].__doc__.split("\n\n")[0].split())


def _untried(name: str) -> str:
    return "" if name in (*FORMS, *TRIED) else " [not tried on the set itself]"


@one_line
def main(argv: Sequence[str] | None = None):
    shapes = "\n".join(
        f"  {name:20} {_shape(name)}{_untried(name)}" for name in LAYOUTS
    )
    parser = argparse.ArgumentParser(
        prog="sdfl data layouts",
        description=f"{__doc__}\nLayouts:\n{shapes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="one of the layouts above")
    add("--root", required=True, help="folder of the data set (or one list)")
    add("--out", required=True, help="folder of the lists")
    add("--seed", type=int, default=0, help="for random splits")
    add("--split", help="8:1:1, study or published (default: the set's own, or 8:1:1)")
    add("--lists", metavar="DIR", help="published lists, with --split=published")
    add(
        "--replace",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="change a prefix",
    )
    add("--strict", action="store_true", help="stop at anything that is rejected")
    engine.add_arguments(parser)
    faces = parser.add_argument_group("faceforensics")
    add = faces.add_argument
    add("--splits", type=Path, metavar="DIR", help="official train|val|test.json")
    add("--frames", type=int, default=8, help="frames per original video")
    add("--compression", default="", help="such as c23 (default: the best there is)")
    settings = vars(engine.parse(parser, argv))
    setup()
    if settings["frames"] < 1:
        raise InputError(f"--frames={settings['frames']}: 1 or more is expected.")
    lay_out(settings.pop("name"), settings.pop("root"), settings.pop("out"), **settings)


if __name__ == "__main__":
    main()
