r"""CAT-Net on its authors' list: pixels and JPEG coefficients of ten sets.

python -m sdfl_jax.main --config=configs/protocol_cat_catnet.py \
    --workdir=runs/cat_catnet
python -m sdfl_jax.weights --model=catnet --weights=FILE --workdir=runs/published_catnet

Windows of 512x512 on the 8x8 grid and no other augmentation; SGD, rate 0.005, momentum
0.9, decay 5e-4, falling as (1 - step / steps)^0.9 over 200 epochs, batches of 11 on
each GPU (here of one); a manipulated pixel weighs five times an authentic one. The
authors start from HRNet-W48 (ImageNet) and a coefficient stream trained to tell double
JPEG compression; `--config.init_from` of a working directory that `weights` made starts
from their published network instead. No single figure of theirs is repeated here: they
report pixel accuracy and permuted F1 by set. Not trained here in full. Data:
`configs/_protocols.py`.
"""

from sdfl_jax.config import of_network, parse_arg
from sdfl_jax.configs import _protocols


def get_config(arg: str = ""):
    parse_arg(arg)
    config = of_network("catnet")
    _protocols.catnet(config)
    config.batch_size = 11
    config.total_epochs = 200
    config.optimizer = dict(name="sgd", lr=0.005, momentum=0.9, weight_decay=5e-4)
    config.schedule.name = "poly"
    return config
