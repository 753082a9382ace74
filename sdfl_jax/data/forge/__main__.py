"""Makes forgeries with exact masks out of any folder of photographs.

python -m sdfl_jax.data.forge --photos=DIR --out=DIR --count=N --seed=S
    [--count_val=N/8] [--count_test=N/8] [--size=128] [--authentic=0.3]
    [--kinds=splice,copymove,inpainting,object,edit,swap] [--areas=0.03:0.4]
    [--segments=DIR] [--workers=CORES] [--strict]

Makes --count images for training, --count_val for validation, --count_test for testing.
PHOTOS/train, PHOTOS/val and PHOTOS/test decide the split where they exist; otherwise
the photographs are split 8:1:1. Authentic and manipulated images are processed alike: a
crop at native resolution with a simulated processing history (resizing, JPEG), then the
manipulation, if any, then one save (JPEG 75 to 99 for 70 %, PNG for the others).

splice      another photograph in a random shape, or with --segments a segment of it
            (DIR holds a PNG of labels for photo.jpg as photo.png)
copymove    the photograph's own content, half the time turned, scaled, mirrored
inpainting  a shape removed, by Telea's method or by Navier-Stokes
object      an object of another photograph, found by GrabCut
edit        blur, noise, colour, resampling or a median inside a shape
swap        another photograph in a face's oval, by Poisson blending or colour transfer

OUT gets images/SPLIT/, masks/SPLIT/ and paths_{train,val,test}.csv (image, mask, edge,
label, source, group, kind; paths relative to OUT; no mask for authentic images),
forgeries.csv with all that was drawn for each image, and left_out.csv with the files
that could not serve (unreadable, smaller than --size, label maps). The same seed gives
the same bytes with any number of workers. Work happens in OUT.partial, which becomes
OUT when it is whole; an interrupted run goes on from there.
"""

import argparse
from collections.abc import Sequence

from sdfl_jax.data import engine
from sdfl_jax.data.forge.dataset import forge
from sdfl_jax.data.forge.manipulate import KINDS
from sdfl_jax.data.forge.regions import AREAS
from sdfl_jax.data.setup import setup
from sdfl_jax.errors import InputError, one_line


def _areas(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise InputError(f"--areas={text}: takes LOW:HIGH, such as 0.03:0.4.") from None
    return low, high


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="sdfl data forge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--photos", required=True, help="folder of photographs")
    parser.add_argument("--out", required=True, help="new folder")
    parser.add_argument("--count", type=int, required=True, help="training images")
    parser.add_argument("--count_val", type=int, help="default: count / 8")
    parser.add_argument("--count_test", type=int, help="default: count / 8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--size", type=int, default=128, help="pixels; 0 keeps whole photographs"
    )
    parser.add_argument(
        "--authentic", type=float, default=0.3, help="share of authentic images"
    )
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument(
        "--areas",
        default=":".join(map(str, AREAS)),
        metavar="LOW:HIGH",
        help="of the regions, as shares of the image",
    )
    parser.add_argument("--segments", help="folder of segmentation maps, for splices")
    engine.add_arguments(parser)
    parser.add_argument(
        "--strict", action="store_true", help="stop at a file that cannot be used"
    )
    settings = vars(engine.parse(parser, argv))
    setup()
    settings["kinds"] = [kind for kind in settings["kinds"].split(",") if kind]
    settings["areas"] = _areas(settings["areas"])
    made = forge(**settings)
    for split, kinds in made.items():
        each = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        print(f"{split}: {sum(kinds.values())} images ({each or 'none'})")


if __name__ == "__main__":
    main()
