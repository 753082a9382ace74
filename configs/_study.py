"""What the nine experiments of the study share: the published run on eight GPUs.

`shards/shallow` holds CASIAv2, `shards/deep` the frames of FaceForensics++ and
`shards/both` the two together, each with `train` and `val`: lists that
`sdfl_jax.data.layouts NAME --split=study` wrote, joined, and `sdfl_jax.data.build`. The
shallow `test` holds CASIAv1, Columbia and COVERAGE as well. The study's own lists leak
between its splits, so some figures are too good; `sdfl_jax.data.audit` says where.

`--config=FILE:small` is the narrow form of each, for minutes on a CPU: `small` here.
"""

from sdfl_jax.config import parse_arg
from sdfl_jax.configs import sdfl_8gpu


def get_config(network: str, data: str, arg: str = ""):
    """The experiment with `network` (sdfl, upernet, mvssnet) on `data`."""
    narrow = parse_arg(arg, small=False)["small"]
    config = sdfl_8gpu.get_config()
    if network == "mvssnet":
        config.model = dict(
            name="mvssnet",
            dropout=0.1,
            bn_group=1,
            bn_momentum=0.9,
            freeze_encoder_bn=False,
        )
        config.loss_weights.edge = 0.8  # beside 0.16 and 0.04
    else:
        config.model.name = network
        config.model.noise_branch = network == "sdfl"
    config.data.train = f"shards/{data}/train"
    config.data.val = f"shards/{data}/val"
    return small(config) if narrow else config


def small(config):
    """The same at 128x128 with narrow networks, for hundreds of steps instead of days.

    Every encoder is an EfficientNet-Lite0 from ImageNet, whose weights come as a
    package, with its batch norm as it came (MVSS-Net's learns: its images are not
    normalised). The loss adds binary cross-entropy to Dice, with which so few steps
    learn more, and keeps its weights.
    """
    config.total_epochs = 0
    config.total_steps = 600
    config.validate_every = 150
    config.save_every = 150
    config.keep = 1
    config.image_size = 128
    config.model.bn_group = 0
    config.model.bn_momentum = 0.9
    config.model.encoder = "efficientnet_lite0"
    config.init_encoders.encoder = "efficientnet_lite0"
    if config.model.name == "mvssnet" or config.model.noise_branch:
        config.init_encoders.noise_encoder = "efficientnet_lite0"
    if config.model.name != "mvssnet":
        config.model.freeze_encoder_bn = True
        config.model.width = 32
        config.model.pyramid_width = 32
        config.model.bins = (1, 2, 4)  # the deepest map is 4x4
        config.model.grid_norm = "group"
        config.model.label_input = "pyramid+mask"
    config.mask_losses = ("bce", "dice")
    config.dice = "manipulated"
    config.optimizer = dict(name="adamw", lr=1e-3, weight_decay=1e-2, clip=5.0)
    config.schedule = dict(name="cosine", warmup_steps=20)
    return config
