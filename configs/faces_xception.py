r"""Xception with three dense layers on top of its 1000, on the same faces.

python -m sdfl_jax.main --config=configs/faces_xception.py --workdir=runs/xception \
    --config.init_encoders.encoder=xception.pth
python -m sdfl_jax.evaluate --workdir=runs/xception --data=shards/fakes/test \
    --out=runs/xception_report

Reproduces accuracy .99 and AUC .998 after 2 epochs, where SimpleNet reaches .89: shards
as in `configs/faces_simplenet.py`, at 299. `xception.pth` is timm's `legacy_xception`.
To start from its 1000-way layer too, make a working directory of it for
`--config.init_from` by `sdfl_jax.weights --model=xception "--keep=head*"`. The study
states neither rate, size nor batch: the size is Xception's, the others are this
project's choice.
"""

from sdfl_jax.configs import _faces


def get_config(arg: str = ""):
    config = _faces.get_config("fakes", image_size=299, epochs=2, lr=1e-4, arg=arg)
    config.model = dict(name="xception", hidden=(1000, 256, 64))
    return config
