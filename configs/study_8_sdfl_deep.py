r"""Experiment 8 of the study: the full network, deep fakes.

python -m sdfl_jax.main --config=configs/study_8_sdfl_deep.py \
    --workdir=runs/study_8 \
    --config.init_encoders.encoder=resnet50-imagenet.pth \
    --config.init_encoders.noise_encoder=resnet50-imagenet.pth
python -m sdfl_jax.evaluate --workdir=runs/study_8 --out=runs/study_8_report \
    --data=shallow=shards/shallow/test,deep=shards/deep/test

`resnet50-imagenet.pth`: CSAIL's ImageNet weights. Published, in the reference's
protocol at threshold 0.5:

| test set | pixel F1 | image F1 | combined F1 | image AUC |
| --- | --- | --- | --- | --- |
| shallow | .45 | .12 | .19 | .45 |
| deep | .92 | .95 | .94 | .99 |
| both | .68 | | | |
"""

from sdfl_jax.configs import _study


def get_config(arg: str = ""):
    return _study.get_config("sdfl", "deep", arg)
