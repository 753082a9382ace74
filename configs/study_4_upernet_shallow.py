r"""Experiment 4 of the study: the network without BayarConv, shallow fakes.

python -m sdfl_jax.main --config=configs/study_4_upernet_shallow.py \
    --workdir=runs/study_4 \
    --config.init_encoders.encoder=resnet50-imagenet.pth
python -m sdfl_jax.evaluate --workdir=runs/study_4 --out=runs/study_4_report \
    --data=shallow=shards/shallow/test,deep=shards/deep/test

`resnet50-imagenet.pth`: CSAIL's ImageNet weights. Published, in the reference's
protocol at threshold 0.5:

| test set | pixel F1 | image F1 | combined F1 | image AUC |
| --- | --- | --- | --- | --- |
| shallow | .60 | .62 | .61 | .83 |
| deep | .30 | .29 | .29 | .55 |
| both | .45 | | | |
"""

from sdfl_jax.configs import _study


def get_config(arg: str = ""):
    return _study.get_config("upernet", "shallow", arg)
