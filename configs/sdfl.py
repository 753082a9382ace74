r"""The study's network, trained as its reference does, with a batch that is one batch.

python -m sdfl_jax.main --config=configs/sdfl.py --workdir=runs/sdfl \
    --config.init_encoders.encoder=resnet50-imagenet.pth \
    --config.init_encoders.noise_encoder=resnet50-imagenet.pth

Batch norm and Dice run over the whole batch of 8, whatever the number of devices; the
published run did not, see `configs/sdfl_8gpu.py`.
"""

from sdfl_jax.config import defaults, parse_arg


def get_config(arg: str = ""):
    parse_arg(arg)
    config = defaults()
    config.total_epochs = 200  # the plateau schedule stops earlier
    config.batch_size = 8
    config.image_size = 512
    config.model = dict(
        name="sdfl",
        encoder="resnet50_deep",
        noise_branch=True,
        width=256,
        pyramid_width=512,
        bins=(1, 2, 3, 6),
        label_input="pyramid",
        bn_group=0,
        bn_momentum=0.999,
        freeze_encoder_bn=False,
    )
    config.loss_weights = dict(mask=0.16, label=0.04, edge=0.0)
    config.optimizer = dict(name="adamw", lr=1e-4, weight_decay=1e-2, clip=0.0)
    config.schedule.name = "plateau"
    config.best_metric = "loss"
    return config
