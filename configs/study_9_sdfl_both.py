r"""Experiment 9 of the study: the full network, shallow and deep fakes.

python -m sdfl_jax.main --config=configs/study_9_sdfl_both.py \
    --workdir=runs/study_9 \
    --config.init_encoders.encoder=resnet50-imagenet.pth \
    --config.init_encoders.noise_encoder=resnet50-imagenet.pth
python -m sdfl_jax.evaluate --workdir=runs/study_9 --out=runs/study_9_report \
    --data=shallow=shards/shallow/test,deep=shards/deep/test

`resnet50-imagenet.pth`: CSAIL's ImageNet weights. Published, in the reference's
protocol at threshold 0.5:

| test set | pixel F1 | image F1 | combined F1 | image AUC |
| --- | --- | --- | --- | --- |
| shallow | .60 | .66 | .63 | .84 |
| deep | .91 | .94 | .93 | .99 |
| both | .75 | | | |

Reproduced since: deep pixel F1 .9097, accuracy .9421, sensitivity .9322,
specificity .9550, image F1 .9435, AUC .9877, combined .9263; the same of both test
sets .8044, .8505, .7547, .9565, .8437, .9172, .8236.
"""

from sdfl_jax.configs import _study


def get_config(arg: str = ""):
    return _study.get_config("sdfl", "both", arg)
