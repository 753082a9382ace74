r"""Experiment 6 of the study: no BayarConv, shallow and deep fakes.

python -m sdfl_jax.main --config=configs/study_6_upernet_both.py \
    --workdir=runs/study_6 \
    --config.init_encoders.encoder=resnet50-imagenet.pth
python -m sdfl_jax.evaluate --workdir=runs/study_6 --out=runs/study_6_report \
    --data=shallow=shards/shallow/test,deep=shards/deep/test

`resnet50-imagenet.pth`: CSAIL's ImageNet weights. Published, in the reference's
protocol at threshold 0.5:

| test set | pixel F1 | image F1 | combined F1 | image AUC |
| --- | --- | --- | --- | --- |
| shallow | .59 | .65 | .62 | .85 |
| deep | .87 | .93 | .90 | .98 |
| both | .72 | | | |
"""

from sdfl_jax.configs import _study


def get_config(arg: str = ""):
    return _study.get_config("upernet", "both", arg)
