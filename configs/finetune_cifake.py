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
project's choice.
"""

from sdfl_jax.configs import sdfl


def get_config(arg: str = ""):
    config = sdfl.get_config(arg)
    config.init_from = "runs/study_9"
    config.total_epochs = 5
    config.batch_size = 32
    config.image_size = 256  # of 32x32 originals
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
    config.optimizer = dict(name="adamw", lr=1e-4, weight_decay=1e-2, clip=0.0)
    config.schedule = dict(name="cosine", warmup_steps=100)
    config.best_metric = "image_auc"
    return config
