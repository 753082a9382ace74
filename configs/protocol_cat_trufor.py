r"""TruFor's second and third phase on CAT-Net's list of sets.

python -m sdfl_jax.main --config=configs/protocol_cat_trufor.py \
    --workdir=runs/trufor_2 \
    --config.init_encoders.noise_encoder=FILE   # Noiseprint++, nonprofit use only
python -m sdfl_jax.main --config=configs/protocol_cat_trufor.py:phase=3 \
    --workdir=runs/trufor_3 --config.init_from=runs/trufor_2
python -m sdfl_jax.evaluate --workdir=runs/trufor_3 --data=NAME=SHARDS,... \
    --protocol=trufor --out=report

The second phase trains encoder and mask, the third confidence and score on top of them.
Both: windows of 512x512, SGD, rate 0.005, momentum 0.9, decay 5e-4, falling as (1 -
step / steps)^0.9 over 100 epochs, batches of 18. The first phase, that of Noiseprint++,
has no published code, only weights. Left out: the authors' scaling (0.5 to 1.5) and
JPEG (30 to 100). No single figure of theirs is repeated here: they report F1 by set.
Not trained here in full. Data: `configs/_protocols.py`.
"""

from sdfl_jax.config import of_network, parse_arg
from sdfl_jax.configs import _protocols


def get_config(arg: str = ""):
    phase = parse_arg(arg, phase=2)["phase"]
    config = of_network("trufor", phase=phase)
    _protocols.catnet(config)
    if phase == 3:
        config.freeze = ("noise_encoder/*", "encoder/*", "head/*")
        config.loss_weights = dict(mask=0.0, label=0.5, edge=0.0, confidence=1.0)
        config.label_loss = "balanced_bce"
        config.best_metric = "image_auc"
    config.data.geometry = "crop"
    config.batch_size = 18
    config.total_epochs = 100
    config.optimizer = dict(name="sgd", lr=0.005, momentum=0.9, weight_decay=5e-4)
    config.schedule.name = "poly"
    return config
