r"""A small `sdfl` that learns to find forgeries in minutes on a laptop.

bash launch/demo.sh
python -m sdfl_jax.main --config=configs/demo.py --workdir=demo/run \
    --config.data.train=demo/shards/train --config.data.val=demo/shards/val
"""

from sdfl_jax.config import defaults, parse_arg


def get_config(arg: str = ""):
    parse_arg(arg)
    config = defaults()
    config.total_steps = 800
    config.batch_size = 8
    config.image_size = 128
    config.data = dict(
        train="demo/shards/train",
        val="demo/shards/val",
        geometry="crop",
        flips=True,
        balance=False,
        workers=0,
    )
    config.model = dict(
        name="sdfl",
        encoder="efficientnet_lite0",
        noise_branch=False,
        width=32,
        pyramid_width=32,
        bins=(1, 2, 4),  # the deepest map is 4x4
        grid_norm="group",  # eight images of a 1x1 grid are eight values
        label_input="pyramid+mask",
        bn_group=0,
        bn_momentum=0.9,  # the reference's 0.999 is for long runs
        freeze_encoder_bn=True,  # eight images tell too little
    )
    config.init_encoders.encoder = "efficientnet_lite0"
    config.loss_weights = dict(mask=1.0, label=0.2, edge=0.0)
    config.mask_losses = ("bce", "dice")
    config.dice = "manipulated"
    config.optimizer = dict(name="adamw", lr=1e-3, weight_decay=1e-2, clip=5.0)
    config.schedule = dict(name="cosine", warmup_steps=50)
    config.log_every = 10
    config.validate_every = 200
    config.save_every = 200
    config.keep = 1
    return config
