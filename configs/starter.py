r"""The network that ships with the package, trained on forgeries that never repeat.

bash launch/starter.sh --photos=DIR...
python -m sdfl_jax.main --config=configs/starter.py --workdir=starter/run \
    --config.data.train=forge:photos/cameras:5,photos/clothes --config.data.val=SHARDS
"""

from sdfl_jax.config import defaults, parse_arg


def get_config(arg: str = ""):
    arg = parse_arg(arg, steps=100_000)
    config = defaults()
    config.total_steps = arg["steps"]
    config.batch_size = 8
    config.image_size = 192
    config.data = dict(
        train="forge:photos",
        val="starter/shards/val",
        geometry="crop",
        enlarge=1.5,  # the score is far better for it, see docs/starter.md
        flips=False,  # up and down are told apart; the stream mirrors by itself
        balance=False,
        workers=1,
    )
    config.model = dict(name="starter")
    config.init_encoders.encoder = "efficientnet_lite0"
    config.ema = 0.999
    config.loss_weights = dict(mask=1.0, label=0.2, edge=0.0)
    config.mask_losses = ("bce", "dice")
    config.dice = "manipulated"
    config.optimizer = dict(name="adamw", lr=1e-3, weight_decay=1e-2, clip=1.0)
    config.lr_multipliers = {"encoder/*": 0.4}
    # What the encoder knows of edges and textures down to 1/8 stays: a backward pass
    # through it would be half of a step. The noise branch learns what is special here.
    frozen = ("conv_stem", "bn0", *(f"block{i}" for i in range(5)), "block*/bn*")
    config.freeze = tuple(f"encoder/{part}/*" for part in frozen)
    # A long constant stretch, and a fall of some thousand steps before what ships.
    config.schedule = dict(
        name="wsd", warmup_steps=300, decay_steps=min(2000, arg["steps"] // 4)
    )
    config.log_every = 20
    config.validate_every = 2000
    config.save_every = 500
    config.keep = 2
    return config
