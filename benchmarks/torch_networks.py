"""The other networks in PyTorch: the peers that `benchmarks/networks.py` measures.

Encoders come from torchvision and timm, as image-level networks of two classes; the
small networks are written down here, the field's larger ones in `torch_field`. Each
takes an image, with what else its `random_inputs` gives, and returns mask logits (or
None) and label logits.
"""

import sys
import types

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import torch_field
from benchmarks.torch_sdfl import Decoder, Encoder, Sdfl, conv_bn, resize

# torchvision's build for CUDA imports beside a PyTorch without it once this is there.
if not torch.cuda.is_available():
    sys.modules.setdefault(
        "torchvision._meta_registrations", types.ModuleType("_meta_registrations")
    )


class OfClasses(nn.Module):
    """A network of two classes: the label's logit is their difference."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image):
        logits = self.network(image)
        return None, logits[:, 1] - logits[:, 0]


class DeepResNet50(nn.Module):
    """The reference's encoder with a classifier."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.fc = nn.Linear(2048, 2)

    def forward(self, image):
        return self.fc(self.encoder(image)[-1].mean((2, 3)))


class UperNet(nn.Module):
    """The study's network without its noise branch."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()

    def forward(self, image):
        mask_logits, label_logits = self.decoder(self.encoder(image))
        return resize(mask_logits, image.shape[2:]), label_logits


class UNet(nn.Module):
    def __init__(self, widths=(64, 128, 256), dropout=0.2):
        super().__init__()

        def double(inputs, outputs):
            first, second = conv_bn(inputs, outputs, 3), conv_bn(outputs, outputs, 3)
            return nn.Sequential(first, second, nn.Dropout(dropout))

        self.down = nn.ModuleList(
            double(i, o) for i, o in zip((3, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            double(wide + width, width)
            for width, wide in zip(widths, widths[1:], strict=False)
        )
        self.out = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x):
        skips = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        skips.pop()
        for skip, block in reversed(list(zip(skips, self.up, strict=True))):
            x = block(torch.cat([skip, resize(x, skip.shape[2:])], 1))
        mask_logits = self.out(x)
        return mask_logits, mask_logits.amax((1, 2, 3))


def simplenet(image_size: int) -> nn.Module:
    layers, inputs, side = [], 3, image_size
    for outputs in (6, 16, 24):
        layers += [nn.Conv2d(inputs, outputs, 7), nn.ReLU(), nn.MaxPool2d(2)]
        inputs, side = outputs, (side - 6) // 2
    dense = [nn.Linear(inputs * side**2, 1024), nn.ReLU(), nn.Linear(1024, 256)]
    return nn.Sequential(*layers, nn.Flatten(), *dense, nn.ReLU(), nn.Linear(256, 2))


def xception() -> nn.Module:
    head = [nn.Linear(1000, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU()]
    return nn.Sequential(_timm("legacy_xception", 1000), *head, nn.Linear(64, 2))


def _timm(name: str, classes: int = 2) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=classes)


def _vit(name: str, side: int) -> nn.Module:
    import timm

    # Sides need be no multiple of the patch; the position table is resized then.
    free = {"dynamic_img_size": True, "dynamic_img_pad": True}
    return timm.create_model(name, num_classes=2, img_size=side, **free)


def _segformer(kind: str, **settings) -> nn.Module:
    """transformers' network of the size B2."""
    import transformers

    config = transformers.SegformerConfig(
        depths=[3, 4, 6, 3], hidden_sizes=[64, 128, 320, 512], **settings
    )
    return getattr(transformers, f"SegformerFor{kind}")(config)


class Logits(nn.Module):
    """What transformers returns, as others do."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network(image).logits


class SegFormer(nn.Module):
    """Mask logits at the size of the image; the label's is their highest."""

    def __init__(self):
        super().__init__()
        settings = {"num_labels": 1, "decoder_hidden_size": 768}
        self.network = Logits(_segformer("SemanticSegmentation", **settings))

    def forward(self, image):
        mask_logits = resize(self.network(image), image.shape[2:])
        return mask_logits, mask_logits.amax((1, 2, 3))


def _torchvision(name: str) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(name, weights=None, num_classes=2)


# From the names of `networks.py` to PyTorch, given the side of the images.
PEERS = {
    "sdfl": lambda side: Sdfl(),
    "upernet": lambda side: UperNet(),
    "unet": lambda side: UNet(),
    "simplenet": lambda side: OfClasses(simplenet(side)),
    "xception": lambda side: OfClasses(xception()),
    "resnet50_deep": lambda side: OfClasses(DeepResNet50()),
    "segformer": lambda side: SegFormer(),
    "vit_lora": lambda side: torch_field.VitLora(),
    "catnet": lambda side: torch_field.CatNet(),
    "mesorch": lambda side: torch_field.Mesorch(),
    "trufor": lambda side: torch_field.TruFor(),
    "mit_b2": lambda side: OfClasses(Logits(_segformer("ImageClassification"))),
    "vit_small_patch14_dinov2": lambda side: OfClasses(
        _vit("vit_small_patch14_dinov2", side)
    ),
    "vit_small_patch16_dinov3": lambda side: OfClasses(
        _vit("vit_small_patch16_dinov3", side)
    ),
    "efficientnet_lite0": lambda side: OfClasses(_timm("tf_efficientnet_lite0")),
} | {
    name: lambda side, name=name: OfClasses(_torchvision(name))
    for name in ("convnext_tiny", "densenet121", "resnet18", "resnet50", "resnet101")
}


def loss(mask_logits, label_logits, mask, label):
    """0.16 Dice over the flattened batch where there is a mask, and 0.04 BCE."""
    total = 0.04 * F.binary_cross_entropy_with_logits(label_logits, label)
    if mask_logits is None:
        return total
    probs = mask_logits.sigmoid()
    overlap = 2 * (probs * mask).sum() + 1
    return total + 0.16 * (
        1 - overlap / (probs.square().sum() + mask.square().sum() + 1)
    )
