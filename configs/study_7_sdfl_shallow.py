r"""Experiment 7 of the study: the full network, shallow fakes.

python -m sdfl_jax.main --config=configs/study_7_sdfl_shallow.py \
    --workdir=runs/study_7 \
    --config.init_encoders.encoder=resnet50-imagenet.pth \
    --config.init_encoders.noise_encoder=resnet50-imagenet.pth
python -m sdfl_jax.evaluate --workdir=runs/study_7 --out=runs/study_7_report \
    --data=shallow=shards/shallow/test,deep=shards/deep/test

`resnet50-imagenet.pth`: CSAIL's ImageNet weights. Published, in the reference's
protocol at threshold 0.5:

| test set | pixel F1 | image F1 | combined F1 | image AUC |
| --- | --- | --- | --- | --- |
| shallow | .60 | .68 | .64 | .85 |
| deep | .27 | .29 | .28 | .47 |
| both | .44 | | | |
"""

from sdfl_jax.configs import _study


def get_config(arg: str = ""):
    return _study.get_config("sdfl", "shallow", arg)
