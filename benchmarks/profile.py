r"""Where the time of a training step goes: by part of the network, and by kind.

python -m benchmarks.profile                    # sdfl, batch 2 at 512x512, float32
python -m benchmarks.profile --network=demo --depth=1
python -m benchmarks.profile --batch=32 --precision=bfloat16       # on a GPU

Traces a few steps on one random batch and adds up the time of every operation of the
compiled program under the part of the network that it stands in; the compiler notes
that for each operation (for fused ones, of the last). Operations that run at the same
time are both counted, so that the shares are of the operations' time, not the clock's.
"""

import argparse
import collections
import json
import re
import tempfile
import time
from pathlib import Path

from benchmarks.train import CONFIGS, SIZES, lowered_step, random_batch
from sdfl_jax.devices import memory

_WRAPPED = re.compile(r"(transpose\()?jvp\(")
_NO_MODULE = re.compile(r"\(|^cond$|^branch_\d")
_PRODUCTS = ("conv", "dot_general")
_HOLDERS = ("while", "call", "conditional")  # of operations that count themselves


def scopes(program: str) -> dict[str, str]:
    """Of each operation of a compiled program, where in the source it stands."""
    return dict(re.findall(r'%?([\w.-]+) = .*?op_name="([^"]*)"', program))


def place(scope: str, depth: int) -> tuple[str, str, str]:
    """Part of the network to `depth`, direction, and kind of operation."""
    _, *path = scope.split("/")
    wrapped = _WRAPPED.match(path[0]) if path else None
    modules = [name for name in path[1:] if not _NO_MODULE.search(name)]
    if wrapped is None or len(modules) < 2:
        part = "outside the network: losses, update" if path else "not noted: copies"
        return part, "", "other"
    if any(name.startswith(_PRODUCTS) or name.endswith("conv") for name in modules):
        kind = "products"
    elif any(re.fullmatch(r"(.*_)?bn\d*", name) for name in modules):
        kind = "batch norm"
    else:
        kind = "other"
    # The last name is the operation's own.
    direction = "gradient" if wrapped[1] else "forward"
    return "/".join(modules[:-1][:depth]), direction, kind


def traced(run, steps: int) -> dict[str, float]:
    """Seconds of each operation while `run` runs so often."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                run()
        (path,) = Path(folder).glob("**/*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
        seconds = collections.Counter()
        for plane in data.planes:
            for line in plane.lines:
                for event in line.events:
                    operation = dict(event.stats).get("hlo_op")
                    if operation and not operation.startswith(_HOLDERS):
                        seconds[operation] += event.duration_ns / 1e9 / steps
    return seconds


def main():
    import jax

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=CONFIGS, default="sdfl")
    parser.add_argument("--batch", type=int, help="2 for sdfl, 8 for demo")
    parser.add_argument("--image_size", type=int, help="512 for sdfl, 128 for demo")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--remat", action="store_true", help="see config.remat")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--depth", type=int, default=2, help="of the parts' names")
    parser.add_argument("--rows", type=int, default=20, help="largest parts to print")
    parser.add_argument("--json", help="file for all figures")
    args = parser.parse_args()
    size, image_size = SIZES[args.network]
    size, image_size = args.batch or size, args.image_size or image_size

    batch = random_batch(size, image_size)
    lowered, state, batch = lowered_step(
        args.network, batch, args.precision, remat=args.remat
    )
    compiled = lowered.compile()

    def run():
        nonlocal state
        state, scalars = compiled(state, batch)
        jax.block_until_ready(scalars)

    run()
    start = time.perf_counter()
    run()
    clock = time.perf_counter() - start
    where = scopes(compiled.as_text())
    parts = collections.defaultdict(collections.Counter)
    kinds = collections.Counter()
    for operation, seconds in traced(run, args.steps).items():
        part, direction, kind = place(where.get(operation, ""), args.depth)
        parts[part][direction] += seconds
        parts[part][kind] += seconds
        parts[part]["all"] += seconds
        kinds[kind] += seconds
    total = sum(kinds.values())

    share = lambda seconds: f"{seconds / total:.1%}"
    print(
        f"{args.network}, batch {size}, {image_size}x{image_size}, {args.precision}, "
        f"{jax.devices()[0].device_kind}: {clock:.3g} s a step, {total:.3g} s of "
        f"operations ({', '.join(f'{k} {share(s)}' for k, s in kinds.most_common())})"
    )
    columns = ("all", "forward", "gradient", "products", "batch norm")
    print(f"\n| part | {' | '.join(columns)} |\n|{' --- |' * (1 + len(columns))}")
    ranked = sorted(parts.items(), key=lambda item: -item[1]["all"])
    for part, seconds in ranked[: args.rows]:
        print(f"| {part} | {' | '.join(share(seconds[key]) for key in columns)} |")
    if args.json:
        figures = vars(args) | {
            "clock": clock,
            "seconds": parts,
            "jax": jax.__version__,
        }
        Path(args.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    memory.restart()  # as `sdfl_jax.main` does
    main()
