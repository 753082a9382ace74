r"""Experiment 1 of the study: MVSS-Net, shallow fakes.

python -m sdfl_jax.main --config=configs/study_1_mvssnet_shallow.py \
    --workdir=runs/study_1 \
    --config.init_encoders.encoder=resnet50.pth \
    --config.init_encoders.noise_encoder=resnet50.pth
python -m sdfl_jax.evaluate --workdir=runs/study_1 --out=runs/study_1_report \
    --data=shallow=shards/shallow/test,deep=shards/deep/test

`resnet50.pth`: torchvision's ImageNet weights. Published, in the reference's
protocol at threshold 0.5:

| test set | pixel F1 | image F1 | combined F1 | image AUC |
| --- | --- | --- | --- | --- |
| shallow | .60 | .68 | .64 | .79 |
| deep | .24 | .51 | .33 | .53 |
| both | .42 | | | |
"""

from sdfl_jax.configs import _study


def get_config(arg: str = ""):
    return _study.get_config("mvssnet", "shallow", arg)
