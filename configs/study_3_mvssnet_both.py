r"""Experiment 3 of the study: MVSS-Net, shallow and deep fakes.

python -m sdfl_jax.main --config=configs/study_3_mvssnet_both.py \
    --workdir=runs/study_3 \
    --config.init_encoders.encoder=resnet50.pth \
    --config.init_encoders.noise_encoder=resnet50.pth
python -m sdfl_jax.evaluate --workdir=runs/study_3 --out=runs/study_3_report \
    --data=shallow=shards/shallow/test,deep=shards/deep/test

`resnet50.pth`: torchvision's ImageNet weights. Published, in the reference's
protocol at threshold 0.5:

| test set | pixel F1 | image F1 | combined F1 | image AUC |
| --- | --- | --- | --- | --- |
| shallow | .59 | .64 | .62 | .78 |
| deep | .90 | .94 | .92 | .97 |
| both | .75 | | | |
"""

from sdfl_jax.configs import _study


def get_config(arg: str = ""):
    return _study.get_config("mvssnet", "both", arg)
