r"""The published run on eight GPUs, on any number of devices.

python -m sdfl_jax.main --config=configs/sdfl_8gpu.py --workdir=runs/sdfl_8gpu \
    --config.init_encoders.encoder=resnet50-imagenet.pth \
    --config.init_encoders.noise_encoder=resnet50-imagenet.pth

Twelve images asked for over eight GPUs gave one image each: a batch of 8, the rate 1e-4
divided by 8, batch norm and Dice over single images, gradients averaged. Batch norm of
a single value (the pyramid's 1x1 grid) gives its bias.
"""

from sdfl_jax.configs import sdfl


def get_config(arg: str = ""):
    config = sdfl.get_config(arg)
    config.batch_size = 8
    config.optimizer.lr = 1.25e-5
    config.model.bn_group = 1
    config.dice = "per_image"
    return config
