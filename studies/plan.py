"""How large the studies are, and the steps that they are made of."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sdfl_jax import metrics
from sdfl_jax.data.forge.manipulate import KINDS
from sdfl_jax.models import ENCODERS
from studies.data import content
from studies.steps import Runner, Step

# Documents' groups of data sets, and what stands for them in the forged ones.
SHALLOW = ("splice", "copymove", "inpainting", "object")
DEEP = ("swap",)
SIDE = 128  # of forged images
KIND_SIDE = 64  # of those of one kind, for U-Nets that start from nothing
# Of the documents' cross-generator study; forge's kinds stand for them.
GENERATORS = ("repaint", "lama", "pluralistic", "ldm")


@dataclasses.dataclass(frozen=True)
class Form:
    """How large everything is.

    `images` are those of one forged set by split; `steps` those of training by study,
    None for what the config says. `narrow` takes the `:small` form of every config.
    `limit` stops a step that takes more; 0 lets all run to their end. With `apart`
    every core has a step of its own, and none waits for another's. A study or
    STUDY/RUN in `once` takes the first seed alone. `encoder`, fresh, stands for that of
    every config that has one.
    """

    name: str
    seeds: int
    images: Mapping[str, int] = dataclasses.field(default_factory=dict)
    kind_images: Mapping[str, int] = dataclasses.field(default_factory=dict)
    kinds: Sequence[str] = tuple(KINDS)
    steps: Mapping[str, int] = dataclasses.field(default_factory=dict)
    encoders: Sequence[str] = tuple(ENCODERS)
    encoder: str = ""
    once: Sequence[str] = ()
    seconds: float = 0  # of training, of the comparison at equal time
    narrow: bool = True
    resamples: int = metrics.RESAMPLES
    limit: int = 360  # processor seconds of a step: six minutes of one core
    apart: bool = True

    @property
    def forged(self) -> bool:
        """Whether the data are made here; otherwise the shards are given."""
        return bool(self.images)


FORMS = {
    "quick": Form(
        "quick",
        seeds=1,
        images={"train": 96, "val": 24, "test": 32},
        kind_images={"train": 48, "val": 12, "test": 32},
        kinds=("splice", "inpainting", "swap"),
        steps={
            "nine": 4,
            "backbones": 4,
            "settings": 4,
            "finetuning": 4,
            "generators": 8,
            "faces": 2,
        },
        encoders=("resnet10_narrow", "resnet50_deep"),
        encoder="resnet10_narrow",  # others take longer to compile than to train
        seconds=5,
        resamples=200,
    ),
    "small": Form(
        "small",
        seeds=3,
        images={"train": 1000, "val": 100, "test": 300},
        kind_images={"train": 640, "val": 60, "test": 150},
        steps={
            "nine": 200,
            "backbones": 80,
            "settings": 100,
            "finetuning": 60,
            "generators": 600,
            "faces": 60,
        },
        # Above 60 million parameters two cores take as long for one as for several.
        encoders=tuple(
            name
            for name in ENCODERS
            if not any(
                part in name for part in ("_large_", "_base_", "mit_b4", "mit_b5")
            )
        ),
        # No sentence rests on those of the nine.
        once=(
            "backbones",
            *(
                f"nine/{network}_{data}"
                for network in ("mvssnet", "upernet")
                for data in ("shallow", "deep")
            ),
        ),
        seconds=40,
    ),
    "full": Form(
        "full",
        seeds=3,
        kinds=GENERATORS,
        seconds=3600,
        narrow=False,
        limit=0,
        apart=False,
    ),
}


class Plan:
    """The steps of one form, whose output lies below `runner.folder`."""

    def __init__(self, form: Form, runner: Runner, photos: str | None = None):
        self.form, self.runner, self.photos = form, runner, photos
        self.folder = runner.folder
        self.pictures = self.folder / "page" / "studies"  # beside page/studies.md

    def picture(self, name: str) -> Path:
        """Where a chart of the page goes."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        return self.pictures / f"{name}.png"

    def shown(self, name: str, said: str) -> str:
        """The line of the page that shows this chart."""
        return f"![{said}](studies/{name}.png)"

    # Data

    def shards(self, name: str, split: str) -> Step:
        """A split of one of the sets: `shallow`, `deep`, `both`, `rendered`, a kind."""
        out = self.folder / "shards" / name / split
        if not self.form.forged:
            return Step(out)
        if name == "both":
            return self.joined("both", ("shallow", "deep"), split)
        lists = self._rendered() if name == "rendered" else self._forged(name)
        return Step(
            out,
            "sdfl_jax.data.build",
            (
                f"--paths_file={lists.out}/paths_{split}.csv",
                f"--root={lists.out}",
                f"--out={out}",
                f"--image_size={self.side(name)}",
            ),
            (lists,),
        )

    def side(self, name: str) -> int:
        """Of the images in a forged set."""
        return KIND_SIDE if name in KINDS else SIDE

    def joined(self, name: str, names: Sequence[str], split: str) -> Step:
        """A split of several sets together."""
        parts = [self.shards(part, split) for part in names]
        out = self.folder / "shards" / name / split
        flags = ("join", *(str(part.out) for part in parts), f"--out={out}")
        return Step(out, "studies.data", flags, tuple(parts))

    def _forged(self, name: str) -> Step:
        kinds = {"shallow": SHALLOW, "deep": DEEP, "authentic": (*SHALLOW,)}
        whole = name in kinds
        counts = self.form.images if whole else self.form.kind_images
        out, dealt = self.folder / "forged" / name, self._dealt()
        # Another seed for each set: none repeats another's authentic images.
        seed = [*kinds, *KINDS].index(name) + 1
        return Step(
            out,
            "sdfl_jax.data.forge",
            (
                f"--photos={dealt.out}",
                f"--out={out}",
                f"--count={counts['train']}",
                f"--count_val={counts['val']}",
                f"--count_test={counts['test']}",
                f"--size={self.side(name)}",
                f"--kinds={','.join(kinds.get(name, (name,)))}",
                f"--authentic={1.0 if name == 'authentic' else 0.4}",
                f"--seed={seed}",
            ),
            (dealt,),
        )

    def _rendered(self) -> Step:
        forged = self._forged("authentic")
        out = self.folder / "forged" / "rendered"
        flags = ("render", f"--forged={forged.out}", f"--out={out}")
        return Step(out, "studies.data", flags, (forged,))

    def _dealt(self) -> Step:
        out = self.folder / "photos"
        flags = ("deal", f"--photos={self.photos}", f"--out={out}")
        return Step(out, "studies.data", flags, stamp=content(self.photos))

    # Networks

    def train(
        self,
        study: str,
        run: str,
        config: str,
        data: str,
        *,
        seed: int = 0,
        flags: Sequence[str] = (),
        needs: Sequence[Step] = (),
        late: Callable[[], Sequence[str]] | None = None,
        times: int = 1,
    ) -> Step:
        """A training with `configs/CONFIG.py` on the set `data`.

        It takes `times` as many steps as others of the study, where the form has any.
        """
        arg = "small" if self.form.narrow else ""
        module = importlib.import_module(f"sdfl_jax.configs.{config}")
        splits = [self.shards_of(data, split) for split in ("train", "val")]
        out = self.folder / "runs" / study / run / str(seed)
        settings = module.get_config(arg)
        if not any(flag.startswith("--config.model.encoder=") for flag in flags):
            flags = (*self._encoder(settings), *flags)
        steps = times * self.form.steps.get(study, 0)
        if steps and late is None:
            flags = (*of_length(steps), *flags)
        return Step(
            out,
            "sdfl_jax.main",
            (
                f"--config=configs/{config}.py{arg and f':{arg}'}",
                f"--workdir={out}",
                f"--config.data.train={splits[0].out}",
                f"--config.data.val={splits[1].out}",
                f"--config.seed={seed}",
                *flags,
            ),
            (*splits, *needs),
            late,
            stamp=settings.to_json(sort_keys=True),
        )

    def _encoder(self, config) -> tuple[str, ...]:
        """Flags that put the form's encoder into the place of the config's."""
        if not self.form.encoder or "encoder" not in config.model:
            return ()
        given = [name for name, weights in config.init_encoders.items() if weights]
        return (
            f"--config.model.encoder={self.form.encoder}",
            *(f"--config.init_encoders.{name}=" for name in given),
        )

    def shards_of(self, data: str, split: str) -> Step:
        """`shards`, or `joined` for a name such as `all_but_splice`."""
        if data.startswith("all_but_"):
            left_out = data.removeprefix("all_but_")
            others = [kind for kind in self.form.kinds if kind != left_out]
            return self.joined(data, others, split)
        return self.shards(data, split)

    def score(
        self,
        trained: Step,
        sets: Sequence[str],
        *,
        study: str = "",
        run: str = "",
        flags: Sequence[str] = (),
    ) -> Step:
        """An evaluation of a training on the test splits of `sets`.

        Its place is that of the training, unless `study` and `run` say another.
        """
        tests = {of: self.shards(of, "test") for of in sets}
        of_study, *of_run = trained.out.relative_to(self.folder / "runs").parts
        out = self.folder / "reports" / (study or of_study) / (run or Path(*of_run))
        data = ",".join(f"{of}={step.out}" for of, step in tests.items())
        return Step(
            out,
            "sdfl_jax.evaluate",
            (f"--workdir={trained.out}", f"--data={data}", f"--out={out}", *flags),
            (trained, *tests.values()),
        )

    @property
    def labelled(self) -> str:
        """The set whose images have a label and no mask."""
        return "rendered" if self.form.forged else "cifake"

    def seeds(self, study: str, run: str = "") -> range:
        """Of every training of a study, or of one run in it."""
        once = {study, f"{study}/{run}"} & set(self.form.once)
        return range(1 if once else self.form.seeds)


def of_length(steps: int) -> tuple[str, ...]:
    """Flags of a training of so many steps, validated four times or, if few, once."""
    every = -(-steps // 4) if steps >= 100 else steps
    return (
        f"--config.total_steps={steps}",
        f"--config.validate_every={every}",
        f"--config.save_every={every}",
    )
