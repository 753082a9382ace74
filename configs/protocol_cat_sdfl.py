r"""The study's network by the CAT protocol, beside the field's.

python -m sdfl_jax.main --config=configs/protocol_cat_sdfl.py --workdir=runs/cat_sdfl \
    --config.init_encoders.encoder=resnet50-imagenet.pth \
    --config.init_encoders.noise_encoder=resnet50-imagenet.pth
python -m sdfl_jax.evaluate --workdir=runs/cat_sdfl --data=NAME=SHARDS,... \
    --scoring=network --protocol=benco --out=report

Nobody has published the study's network under this protocol; its recipe is the study's
own (`configs/sdfl.py`). Data: `configs/_protocols.py`.
"""

from sdfl_jax.configs import _protocols, sdfl


def get_config(arg: str = ""):
    config = sdfl.get_config(arg)
    _protocols.cat(config)
    return config
