r"""DINOv3 with adapters on CASIA v2 alone, as DINOv3-IML trains it.

python -m sdfl_jax.main --config=configs/protocol_casia2_vit_lora.py \
    --workdir=runs/casia2_vit_lora --config.init_encoders.encoder=FILE   # DINOv3 ViT-S
python -m sdfl_jax.evaluate --workdir=runs/casia2_vit_lora --data=NAME=SHARDS,... \
    --scoring=network --protocol=benco --out=report

Published mean pixel F1 over the test sets, rank 32: 0.460 (ViT-S), 0.770 (ViT-L,
`:encoder=vit_large_patch16_dinov3`). The recipe is that of
`configs/protocol_cat_vit_lora.py`. Not trained here in full.
"""

from sdfl_jax.config import parse_arg
from sdfl_jax.configs import _protocols


def get_config(arg: str = ""):
    fields = parse_arg(arg, encoder="vit_small_patch16_dinov3", rank=32)
    return _protocols.dinov3_iml(_protocols.casia2, **fields)
