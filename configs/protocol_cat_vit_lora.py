r"""DINOv3 with adapters by the CAT protocol, as DINOv3-IML trains it.

python -m sdfl_jax.main --config=configs/protocol_cat_vit_lora.py \
    --workdir=runs/cat_vit_lora --config.init_encoders.encoder=FILE   # DINOv3 ViT-S
python -m sdfl_jax.main \
    --config=configs/protocol_cat_vit_lora.py:encoder=vit_large_patch16_dinov3 \
    --workdir=runs/cat_vit_large_lora --config.init_encoders.encoder=FILE
python -m sdfl_jax.evaluate --workdir=runs/cat_vit_lora --data=NAME=SHARDS,... \
    --scoring=network --protocol=benco --out=report

Published mean pixel F1 over the test sets, rank 32: 0.704 (ViT-S), 0.847 (ViT-L).
Images resized to 512x512, AdamW, rate 3e-4, decay 0.05, cosine over 100 epochs with 5
of warm-up, batches of 48 accumulated 10 times, BCE and 20 times that of the borders.
Not trained here in full; their augmentations are left out, but for flips. Data:
`configs/_protocols.py`.
"""

from sdfl_jax.config import parse_arg
from sdfl_jax.configs import _protocols


def get_config(arg: str = ""):
    fields = parse_arg(arg, encoder="vit_small_patch16_dinov3", rank=32)
    return _protocols.dinov3_iml(_protocols.cat, **fields)
