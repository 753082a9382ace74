r"""Mesorch by the CAT protocol, as its authors train it.

python -m sdfl_jax.main --config=configs/protocol_cat_mesorch.py \
    --workdir=runs/cat_mesorch
python -m sdfl_jax.evaluate --workdir=runs/cat_mesorch --data=NAME=SHARDS,... \
    --scoring=network --protocol=benco --out=report

Published mean pixel F1 over the test sets: 0.677 (as DINOv3-IML quotes it). Images
resized to 512x512, AdamW, rate 1e-4, cosine over 150 epochs (theirs ends at 5e-7, here
at 0) with 2 of warm-up, decay 0.05, batches of 12 on 4 GPUs accumulated twice, float16,
seed 42, BCE. They start from ConvNeXt-Tiny and MiT-B3 of ImageNet. Left out: their
augmentations but flips. Not trained here in full. Data: `configs/_protocols.py`.
"""

from sdfl_jax.config import of_network, parse_arg
from sdfl_jax.configs import _protocols


def get_config(arg: str = ""):
    parse_arg(arg)
    config = of_network("mesorch")
    examples = _protocols.cat(config)
    config.seed = 42
    config.batch_size, config.accumulate_steps = 96, 2
    _protocols.cosine(config, examples, epochs=150, warmup=2)
    config.optimizer.lr = 1e-4
    config.optimizer.weight_decay = 0.05
    config.precision = "auto"
    return config
