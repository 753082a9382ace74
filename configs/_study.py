"""What the nine experiments of the study share: the published run on eight GPUs.

`shards/shallow` holds CASIAv2, `shards/deep` the frames of FaceForensics++ and
`shards/both` the two together, each with `train` and `val`: lists that
`sdfl_jax.data.layouts NAME --split=study` wrote, joined, and `sdfl_jax.data.build`. The
shallow `test` holds CASIAv1, Columbia and COVERAGE as well. The study's own lists leak
between its splits, so some figures are too good; `sdfl_jax.data.audit` says where.
"""

from sdfl_jax.configs import sdfl_8gpu


def get_config(network: str, data: str, arg: str = ""):
    """The experiment with `network` (sdfl, upernet, mvssnet) on `data`."""
    config = sdfl_8gpu.get_config(arg)
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
    return config
