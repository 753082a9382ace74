r"""SimpleNet on edited and on generated faces: three convolutions are enough, or not.

python -m sdfl_jax.data.layouts real_fake_folders --root=data/faces --out=lists/fakes
python -m sdfl_jax.data.build --paths_file=lists/fakes/paths_train.csv \
    --out=shards/fakes/train --image_size=256   # likewise val, test
python -m sdfl_jax.main --config=configs/faces_simplenet.py --workdir=runs/simplenet
python -m sdfl_jax.evaluate --workdir=runs/simplenet --data=shards/fakes/test \
    --out=runs/simplenet_report

Reproduces accuracy .89 and .88 on "fakes" (test 1,400 and 700 images) and chance on
"synthetic" (551 and 552; `--config.data.train=shards/synthetic/train`), with Adam 1e-3,
batch 32 and 5 epochs. The study scored its test set every epoch; here validation data
chooses.
"""

from sdfl_jax.configs import _faces


def get_config(arg: str = ""):
    config = _faces.get_config("fakes", image_size=256, epochs=5, lr=1e-3, arg=arg)
    config.model = dict(name="simplenet", image_size=config.image_size)
    return config
