r"""Experiment 2 of the study: MVSS-Net, deep fakes.

python -m sdfl_jax.main --config=configs/study_2_mvssnet_deep.py \
    --workdir=runs/study_2 \
    --config.init_encoders.encoder=resnet50.pth \
    --config.init_encoders.noise_encoder=resnet50.pth
python -m sdfl_jax.evaluate --workdir=runs/study_2 --out=runs/study_2_report \
    --data=shallow=shards/shallow/test,deep=shards/deep/test

`resnet50.pth`: torchvision's ImageNet weights. Published, in the reference's
protocol at threshold 0.5:

| test set | pixel F1 | image F1 | combined F1 | image AUC |
| --- | --- | --- | --- | --- |
| shallow | .45 | .00 | .01 | .50 |
| deep | .90 | .93 | .91 | .98 |
| both | .67 | | | |
"""

from sdfl_jax.configs import _study


def get_config(arg: str = ""):
    return _study.get_config("mvssnet", "deep", arg)
