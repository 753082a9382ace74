r"""The study's network by the protocol of CASIA v2 alone, beside the field's.

python -m sdfl_jax.main --config=configs/protocol_casia2_sdfl.py \
    --workdir=runs/casia2_sdfl \
    --config.init_encoders.encoder=resnet50-imagenet.pth \
    --config.init_encoders.noise_encoder=resnet50-imagenet.pth
python -m sdfl_jax.evaluate --workdir=runs/casia2_sdfl --data=NAME=SHARDS,... \
    --scoring=network --protocol=benco --out=report

Nobody has published the study's network under this protocol; its recipe is the study's
own (`configs/sdfl.py`). Data: `configs/_protocols.py`.
"""

from sdfl_jax.configs import _protocols, sdfl


def get_config(arg: str = ""):
    config = sdfl.get_config(arg)
    _protocols.casia2(config)
    return config
