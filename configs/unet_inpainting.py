r"""The U-Net study: which pixels of a face did an inpainting model make?

python -m sdfl_jax.data.layouts celebahq_inpainting --root=data/dolos --out=lists/dolos
python -m sdfl_jax.data.build --paths_file=lists/dolos/paths_train.csv \
    --out=shards/inpainting/train --image_size=256   # likewise val, test
python -m sdfl_jax.main --config=configs/unet_inpainting.py --workdir=runs/unet
python -m sdfl_jax.evaluate --workdir=runs/unet --data=shards/inpainting/test \
    --out=runs/unet_report

Reproduces pixel IoU on CelebA-HQ with Repaint, LaMa, Pluralistic and LDM: .13 to .76 on
the generator that was trained on, .006 to .67 for training on three and testing on the
fourth (shards of three, `--config.data.train=...`). The study states the three double
convolutions with dropout 0.2 and the Dice loss; rate, size, batch and epochs are this
project's choice.
"""

from sdfl_jax.config import defaults, parse_arg


def get_config(arg: str = ""):
    small = parse_arg(arg, small=False)["small"]
    config = defaults()
    config.total_epochs = 50
    config.batch_size = 16
    config.image_size = 256
    config.data.train = "shards/inpainting/train"
    config.data.val = "shards/inpainting/val"
    config.model = dict(
        name="unet", widths=(64, 128, 256), dropout=0.2, bn_group=0, bn_momentum=0.9
    )
    config.loss_weights = dict(mask=1.0, label=0.0, edge=0.0)
    config.mask_losses = ("dice",)
    config.optimizer = dict(name="adam", lr=1e-3, weight_decay=0.0, clip=0.0)
    config.best_metric = "pixel_iou_manipulated"
    if small:
        config.total_epochs = 0
        # From nothing, Dice alone and dropout learn next to nothing in minutes, and so
        # do more channels: steps count, and manipulated pixels that weigh more.
        config.total_steps = 1200
        config.image_size = 64
        config.batch_size = 8
        config.model.widths = (8, 16, 32)
        config.model.dropout = 0.0
        config.mask_losses = ("weighted_bce", "dice")
        config.dice = "manipulated"
        config.optimizer.lr = 2e-3
    return config
