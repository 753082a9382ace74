"""The fields of an experiment's config: name, type, default and meaning of each."""

import sys
from pathlib import Path

import ml_collections as mlc

from sdfl_jax.errors import InputError, article, fits, valid
from sdfl_jax.trees.nested import flat


def defaults() -> mlc.ConfigDict:
    """The reference's experiment; a file in `configs/` changes what differs."""
    config = mlc.ConfigDict()
    config.seed = 0
    # One of the two; an epoch is one pass over the class-balanced training data.
    config.total_steps = 0
    config.total_epochs = 0
    config.batch_size = 8  # over all devices
    config.image_size = 512  # the side of the square that a network trains on

    config.data = dict(
        # Folders that `sdfl_jax.data.build` wrote. For training also several,
        # "NAME=SHARDS[:COUNT],...", with so many drawn from each an epoch (without a
        # count all), see `data.mixing`; or "forge:DIR[:WEIGHT],...", photographs to
        # forge from, see `data.forge.stream`.
        train="shards/train",
        val="shards/val",
        geometry="resize",  # or "crop": native resolution
        # Beside the pixels "jpeg": coefficients of each file, for networks that read
        # them; needs geometry="crop" and flips=False.
        inputs=("rgb",),
        # In evaluation a small image is also seen enlarged by this factor, and the mean
        # of both counts (see `data.tiling.cut`); needs geometry="crop". 0: only once.
        enlarge=0.0,
        enlarge_bias=0.0,  # what `predict.ship` adds to the score's logit then
        flips=True,
        balance=True,  # every class sampled up to the size of the largest
        workers=0,  # processes that decode; 0 leaves it to threads
        audit="",  # what sdfl_jax.data.audit wrote, for the model card
    )
    config.model = dict(name="sdfl")  # and the network's own settings
    # Devices: `data` splits the batch (-1: all that are left), `space` the height of
    # the images; shard_state also splits params and optimizer state over `data`.
    config.mesh = dict(data=-1, space=1, shard_state=False)
    # Of the computation: float32, bfloat16, float16 (V100), auto (by the device).
    # Params, statistics and losses are float32 in each.
    config.precision = "float32"
    config.accumulate_steps = 1  # parts of a batch, worked off one after the other
    config.remat = False  # encoders compute again what the backward pass needs
    config.ema = 0.0  # share that the average of the weights keeps; evaluation uses it
    config.init_from = ""  # a working directory, or "starter", which ships
    # What starts afresh all the same: patterns (`trees/patterns.py`) as "label_head/*".
    config.init_keep = ()
    # Weight files for parts of a fresh network; `init_from` goes before them, but where
    # checkpoints leave these parts out (`save_frozen`).
    config.init_encoders = dict(encoder="", noise_encoder="")

    config.loss_weights = dict(mask=0.16, label=0.04, edge=0.0, confidence=0.0)
    # Any of "dice", "bce", "focal", "iou", "lovasz"; they are added, each with its
    # weight in `mask_loss_weights` (none: 1).
    config.mask_losses = ("dice",)
    config.mask_loss_weights = ()
    config.label_loss = "bce"  # or "focal"
    config.dice = "batch"  # over the flattened batch; or "per_image", "manipulated"
    config.optimizer = dict(
        name="adamw",  # adam, adamw, rmsprop, sgd
        lr=1e-4,  # the rate that is applied, whatever the number of devices
        # Decoupled in adamw, added to the gradient elsewhere. None: PyTorch's own of
        # the optimizer, 1e-2 of adamw and 0 of the others.
        weight_decay=mlc.config_dict.placeholder(float),
        b1=0.9,  # adam, adamw; these are PyTorch's defaults as well
        b2=0.999,
        eps=1e-8,
        decay=0.99,  # rmsprop
        momentum=0.0,  # sgd
        clip=0.0,  # largest norm of the gradient; 0 leaves it alone
    )
    # By patterns of params, as {"encoder/*": 0.1}: what the rate is multiplied by.
    config.lr_multipliers = dict()
    # Patterns of params that stay as they are, with their batch norms' statistics.
    config.freeze = ()
    config.schedule = dict(
        name="plateau",  # plateau, step, cosine, poly, constant, wsd
        warmup_steps=0,
        factor=0.1,  # plateau, on the validation loss; step, every `every_steps`
        patience=5,
        early_stop=10,
        every_steps=1000,
        decay_steps=0,  # wsd: the last steps, over which the rate falls to 0
    )

    config.log_every = 10  # all in steps
    config.validate_every = 0  # 0: once an epoch
    config.save_every = 1000
    # False: what is frozen and was read from `init_encoders` is left out of
    # checkpoints, which name the file and its SHA-256 instead.
    config.save_frozen = True
    config.keep = 2  # latest checkpoints; the best one is kept besides
    config.profile = 0  # steps to trace into WORKDIR/profile, after the first two
    # Of the validation data, by which the best checkpoint is kept: a key of
    # `metrics.DECISIVE`, such as "loss", "image_auc" or "image_eer".
    config.best_metric = "pixel_f1_manipulated"
    return config


# Where a network is made for another size than the reference's, or another loss.
_MASK_ALONE = {"loss_weights": {"mask": 1.0, "label": 0.0}}
_OF_NETWORKS = {
    "mvssnet": {"loss_weights": {"mask": 0.16, "label": 0.04, "edge": 0.8}},
    "unet": {"loss_weights": {"mask": 1.0, "label": 0.0, "edge": 0.0}},
    "segformer": _MASK_ALONE | {"mask_losses": ("bce",)},
    "mesorch": _MASK_ALONE | {"mask_losses": ("bce",)},
    "catnet": _MASK_ALONE
    | {
        "mask_losses": ("weighted_bce",),
        "data": {"inputs": ("rgb", "jpeg"), "geometry": "crop", "flips": False},
    },
    "vit_lora": _MASK_ALONE
    | {
        "mask_losses": ("bce", "edge_bce"),
        "mask_loss_weights": (1.0, 20.0),
        "freeze": ("encoder/*", "!*/lora_?"),
    },
    # Of its second phase; for the third see `configs/protocol_cat_trufor.py`.
    "trufor": _MASK_ALONE
    | {
        "mask_losses": ("weighted_bce", "dice_exact"),
        "mask_loss_weights": (0.3, 0.7),
        "freeze": ("noise_encoder/*", "confidence_head/*", "score?/*"),
    },
    "simplenet": {"image_size": 256},
    "densenet121": {"image_size": 224},
    "xception": {"image_size": 299},
}


def of_network(name: str, **settings) -> mlc.ConfigDict:
    """`defaults` for the network `name` of `sdfl_jax.models`, with its own settings."""
    config = defaults()
    config.update(_OF_NETWORKS.get(name, {}))
    config.model = {"name": name, **settings}
    if settings.get("confidence"):
        config.loss_weights.confidence = 1.0
    return config


def find(given: str) -> str:
    """The file of `FILE:ARG` or `NAME:ARG`, with its argument left on.

    A bare name that is no file here is that of a config that ships, `sdfl` or
    `network:name=unet`. Raises `InputError` where there is none of that name.
    """
    name, colon, arg = given.partition(":")
    if not name or Path(name).is_file() or "/" in name or name.endswith(".py"):
        return given
    folder = Path(__file__).parent / "configs"
    ships = {path.stem for path in folder.glob("[!_]*.py")}
    if name not in ships:
        raise InputError(
            f"--config={given}: neither a file nor a config that ships; "
            f"{valid(name, ships)}"
        )
    return f"{folder / name}.py{colon}{arg}"


def parse_arg(arg: str, **fields) -> dict:
    """Reads what stands after a config's colon, such as `image_size=256,smoke`."""
    given = dict(item.partition("=")[::2] for item in (arg or "").split(",") if item)
    for name in given:
        if name not in fields:
            raise InputError(f"Unknown config argument {name!r}; {valid(name, fields)}")
    return {
        name: _parse(name, default, given[name]) if name in given else default
        for name, default in fields.items()
    }


def _parse(name, default, text):
    if isinstance(default, bool) and text in ("", "True", "true", "1"):
        return True
    if isinstance(default, bool) and text in ("False", "false", "0"):
        return False
    try:
        return type(default)(text)
    except ValueError:
        raise InputError(
            f"Config argument {name}={text}: takes {article(default)}."
        ) from None


def check(config: mlc.ConfigDict) -> mlc.ConfigDict:
    """Returns `config` completed with defaults.

    Raises `InputError` for a name, a type or a number that no config has. The settings
    of `config.model` are checked where the network is built.
    """
    from sdfl_jax.metrics import DECISIVE  # late: flags are read without SciPy

    known = defaults()
    config = _renamed(config)
    _check_section(config, known, "config")
    known.unlock()
    known.update(config)
    given = (known.total_steps > 0) + (known.total_epochs > 0)
    if given != 1:
        raise InputError(
            f"config.total_steps={known.total_steps} and config.total_epochs="
            f"{known.total_epochs}: set exactly one of them above 0."
        )
    for name, least in _LEAST.items():
        value = flat(known.to_dict())[name]
        if value < least:
            raise InputError(f"config.{name}={value}: must be {least} or more.")
    if known.optimizer.weight_decay is None:
        known.optimizer.weight_decay = 1e-2 if known.optimizer.name == "adamw" else 0.0
    if not 0 <= known.ema < 1:
        raise InputError(
            f"config.ema={known.ema}: the share that is kept must be at least 0 and "
            "below 1."
        )
    if known.best_metric not in DECISIVE:
        raise InputError(
            f"No config.best_metric {known.best_metric!r}; "
            f"{valid(known.best_metric, DECISIVE)}"
        )
    if known.data.geometry not in ("resize", "crop"):
        raise InputError(
            f"config.data.geometry={known.data.geometry!r}: takes 'resize' (to "
            "image_size) or 'crop' (native resolution)."
        )
    if known.model.get("confidence") and not known.loss_weights.confidence:
        raise InputError(
            "config.model.confidence=True: nothing else trains that head; set "
            "config.loss_weights.confidence above 0, such as 1."
        )
    if tuple(known.data.inputs) not in (("rgb",), ("rgb", "jpeg")):
        raise InputError(
            f"config.data.inputs={tuple(known.data.inputs)}: takes ('rgb',) or ('rgb', "
            "'jpeg')."
        )
    if "jpeg" in known.data.inputs:
        if known.data.geometry != "crop" or known.data.flips or known.image_size % 8:
            raise InputError(
                "config.data.inputs: JPEG coefficients are neither resized nor "
                "mirrored; set data.geometry='crop', data.flips=False and an "
                "image_size of whole blocks of 8."
            )
    enlarge = known.data.enlarge
    fits = known.data.geometry == "crop" and "jpeg" not in known.data.inputs
    if enlarge and not (1 < enlarge <= 4 and fits):
        raise InputError(
            f"config.data.enlarge={enlarge}: 0, or a factor above 1 and up to 4 with "
            "data.geometry='crop' and without JPEG coefficients."
        )
    return known.lock()


def check_data(config: mlc.ConfigDict):
    """What training needs besides a config that `check` let through."""
    for name in ("train", "val"):
        if isinstance(config.data[name], str) and not config.data[name].strip():
            raise InputError(f"config.data.{name} is empty: a folder of shards.")


# The least that a whole number may be.
_LEAST = dict.fromkeys(
    ("batch_size", "image_size", "accumulate_steps", "log_every", "save_every", "keep"),
    1,
) | dict.fromkeys(
    ("total_steps", "total_epochs", "validate_every", "profile", "data.workers"), 0
)

# Fields that had another name once: files and runs of then are still understood.
FORMER_NAMES = {"best_figure": "best_metric"}


def _renamed(config: mlc.ConfigDict) -> mlc.ConfigDict:
    """A copy whose fields have the names of today; a line tells each that had not."""
    # Through a dict, which keeps no references to the defaults of another config.
    config = mlc.ConfigDict(config.to_dict())
    for old, new in FORMER_NAMES.items():
        if old in config:
            say_renamed(old)
            config[new] = config[old]
            del config[old]
    return config


def say_renamed(old: str):
    """Tells on stderr how the field `old` is called now."""
    new = FORMER_NAMES[old]
    print(f"config.{old} is called config.{new} now; taken as that.", file=sys.stderr)


def _check_section(section, known, path):
    for name, value in section.items():
        if path == "config.model":
            continue
        if path == "config.lr_multipliers":  # named by patterns; numbers all the same
            if not fits(value, 1.0):
                raise InputError(f"{path}[{name!r}]={value!r}: takes a number.")
            continue
        if name not in known:
            raise InputError(f"Unknown field {path}.{name}; {valid(name, known)}")
        default = known[name]
        if isinstance(default, mlc.ConfigDict):
            if not isinstance(value, mlc.ConfigDict | dict):
                raise InputError(
                    f"{path}.{name}={value!r}: takes fields {sorted(default)}."
                )
            _check_section(value, default, f"{path}.{name}")
        elif not fits(value, default):
            raise InputError(f"{path}.{name}={value!r}: takes {article(default)}.")


# Of a run that goes on: what may change without a word, and what never may.
_FREE = {
    "log_every",
    "save_every",
    "save_frozen",
    "keep",
    "profile",
    "data.workers",
    "data.audit",
}
_FREE |= {"init_from", "init_encoders.encoder", "init_encoders.noise_encoder"}
# Where it runs: the numbers do not depend on it.
_FREE |= {"mesh.data", "mesh.space", "mesh.shard_state", "remat", "model.pooling"}
_NOT_ARCHITECTURE = {
    "score",
    "remat",
    "pooling",
    "dtype",
    "bn_group",
    "freeze_encoder_bn",
}


def loss_settings(config: mlc.ConfigDict) -> dict:
    """What `losses.total` takes beside outputs and batch."""
    return dict(
        weights=config.loss_weights.to_dict(),
        mask_losses=tuple(config.mask_losses),
        mask_loss_weights=tuple(config.get("mask_loss_weights", ())),
        label_loss=config.get("label_loss", "bce"),
        dice=config.dice,
    )


def check_change(saved: dict, config: mlc.ConfigDict, *, allow: bool) -> list[str]:
    """Compares the complete `config` with the one a run was started with.

    Returns what differs, one line a field, but for fields that change no result. Raises
    `InputError` where the network or its optimizer would be another one, and, unless
    `allow`, where anything differs.
    """
    saved = {FORMER_NAMES.get(name, name): value for name, value in flat(saved).items()}
    before = flat(defaults().to_dict()) | saved
    now = flat(config.to_dict())
    names = sorted(
        name
        for name in (before.keys() | now.keys()) - _FREE
        if before.get(name) != now.get(name)
    )
    changes = [
        f"config.{name}: {before.get(name)} when the run began, {now.get(name)} now"
        for name in names
    ]
    fixed = [c for name, c in zip(names, changes, strict=True) if _is_fixed(name)]
    if fixed:
        raise InputError(
            f"{'; '.join(fixed)}: a run keeps its network and optimizer; give another "
            "--workdir."
        )
    if changes and not allow:
        raise InputError(
            f"{'; '.join(changes)}: give --allow_config_change to go on like this, or "
            "another --workdir."
        )
    return changes


def _is_fixed(name: str) -> bool:
    section, _, field = name.partition(".")
    if section == "model":
        return field not in _NOT_ARCHITECTURE
    return name in ("optimizer.name", "schedule.name")
