r"""The full network, fine-tuned on CIFAKE, whose images have a label and no mask.

python -m sdfl_jax.data.layouts cifake --root=data/CIFAKE --out=lists/cifake
python -m sdfl_jax.data.build --paths_file=lists/cifake/paths_train.csv \
    --out=shards/cifake/train --image_size=256   # likewise val, test
python -m sdfl_jax.main --config=configs/finetune_cifake.py --workdir=runs/cifake

Starts from `runs/study_9` (`--config.init_from=DIR` for another run, or for published
weights that `sdfl_jax.weights` made a working directory of). The label head alone
learns: with the rest frozen, statistics included, masks stay what they were. A config
that lets the encoders learn too, slowly, takes them out of `freeze` and sets
`config.lr_multipliers = {"*encoder/*": 0.1}`.

There is no figure to reproduce: what the study reports of its fine-tuning (an AUC of
.9331) does not fit its own sensitivity and specificity. Rate, epochs and size are this
project's choice. `--config=FILE:small` goes on from `study_9_sdfl_both.py:small`.
"""

from sdfl_jax.config import parse_arg
from sdfl_jax.configs import _study, sdfl


def get_config(arg: str = ""):
    small = parse_arg(arg, small=False)["small"]
    config = sdfl.get_config()
    if small:
        _study.small(config)
    config.init_from = "runs/study_9"
    config.total_epochs = 0 if small else 5
    config.batch_size = 32
    config.image_size = 128 if small else 256  # of 32x32 originals
    config.data.train = "shards/cifake/train"
    config.data.val = "shards/cifake/val"
    config.loss_weights = dict(mask=0.0, label=1.0, edge=0.0)
    config.freeze = (
        "encoder/*",
        "noise_encoder/*",
        "bayar_conv/*",
        "fusion*",
        "decoder/*",
        "mask_head/*",
    )
    lr = 1e-3 if small else 1e-4
    config.optimizer = dict(name="adamw", lr=lr, weight_decay=1e-2, clip=0.0)
    config.schedule = dict(name="cosine", warmup_steps=5 if small else 100)
    config.best_metric = "image_auc"
    return config
