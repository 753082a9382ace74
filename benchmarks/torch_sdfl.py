"""`sdfl` in PyTorch: the peer that `benchmarks/train.py` measures against.

Written for the benchmark, with the names of the reference's state dict, so that its
outputs can be checked with the reference's own numbers:

python -m benchmarks.torch_sdfl sdfl_a   # the path of sdfl_a.json and sdfl_a.npz
"""

import json
import math
import sys
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LEVELS = (256, 512, 1024, 2048)


def conv_bn(inputs: int, outputs: int, kernel: int, relu=True) -> nn.Sequential:
    """Convolution, batch norm and, unless told otherwise, ReLU."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers[: 3 if relu else 2])


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride > 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False),
                nn.BatchNorm2d(4 * width),
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Encoder(nn.Module):
    """ResNet-50 with the deep stem; features at strides 4, 8, 16 and 32."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(128)
        inputs = 128
        for i, (blocks, outputs) in enumerate(zip((3, 4, 6, 3), LEVELS, strict=True)):
            layer = []
            for block in range(blocks):
                stride = 2 if i > 0 and block == 0 else 1
                layer.append(Bottleneck(inputs, outputs // 4, stride))
                inputs = outputs
            setattr(self, f"layer{i + 1}", nn.Sequential(*layer))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = F.relu(self.bn3(self.conv3(x)), inplace=True)
        x = F.max_pool2d(x, 3, 2, padding=1)
        levels = []
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
            levels.append(x)
        return levels


class BayarConv(nn.Module):
    """Centre -1, the rest divided by its sum; the stored kernel is overwritten."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.rand(1, 3, 24))

    def forward(self, x):
        self.kernel.data /= self.kernel.data.sum(-1, keepdim=True)
        centre = self.kernel.new_full((1, 3, 1), -1.0)
        kernel = torch.cat([self.kernel[..., :12], centre, self.kernel[..., 12:]], -1)
        return F.conv2d(x, kernel.reshape(1, 3, 5, 5).transpose(0, 1), padding=2)


def averages(bins: int, size: int) -> torch.Tensor:
    """bins x size: integrals of the samples' hat functions, see `ops/pooling.py`."""
    edges = torch.arange(bins + 1)[:, None] * (size / bins)
    distance = torch.clamp(edges - torch.arange(size), -1, 1)
    integral = distance - torch.sign(distance) * distance**2 / 2
    return integral.diff(dim=0) * (bins / size)


class Decoder(nn.Module):
    def __init__(self, width=256, pyramid_width=512, bins=(1, 2, 3, 6)):
        super().__init__()
        self.bins = bins
        self.ppm_conv = nn.ModuleList(
            conv_bn(LEVELS[-1], pyramid_width, 1) for _ in bins
        )
        pyramid = LEVELS[-1] + len(bins) * pyramid_width
        self.ppm_last_conv = conv_bn(pyramid, width, 3)
        self.fpn_in = nn.ModuleList(conv_bn(n, width, 1) for n in LEVELS[:-1])
        self.fpn_out = nn.ModuleList([nn.Sequential(conv_bn(width, width, 3))])
        self.cls_head = nn.Sequential(
            conv_bn(width, width, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 1, 1)
        )
        self.seg_head = nn.Sequential(conv_bn(width, width, 3), nn.Conv2d(width, 1, 1))

    def forward(self, levels):
        *finer, top = levels
        h, w = top.shape[2:]
        parts = [top]
        for bins, conv in zip(self.bins, self.ppm_conv, strict=True):
            cells = averages(bins, h) @ top @ averages(bins, w).T
            parts.append(conv(resize(cells, (h, w))))
        x = self.ppm_last_conv(torch.cat(parts, 1))
        label_logits = self.cls_head(x).flatten()
        for level, conv in reversed(list(zip(finer, self.fpn_in, strict=True))):
            lateral = conv(level)
            x = lateral + resize(x, lateral.shape[2:])
        return self.seg_head(self.fpn_out[0](x)), label_logits


def resize(x, size):
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


class Sdfl(nn.Module):
    """B 3 H W in [0, 1] to mask logits B 1 H W and label logits B."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.bayar_conv = BayarConv()
        self.noise_encoder = Encoder()
        self.convs = nn.ModuleList(nn.Conv2d(2 * n, n, 3, padding=1) for n in LEVELS)
        self.decoder = Decoder()

    def forward(self, image):
        grey = (image * image.new_tensor([0.2989, 0.5870, 0.1140])[:, None, None]).sum(
            1, keepdim=True
        )
        pairs = zip(
            self.encoder(image), self.noise_encoder(self.bayar_conv(grey)), strict=True
        )
        levels = [
            conv(torch.cat(pair, 1))
            for conv, pair in zip(self.convs, pairs, strict=True)
        ]
        mask_logits, label_logits = self.decoder(levels)
        return resize(mask_logits, image.shape[2:]), label_logits


def loss(mask_logits, label_logits, mask, label):
    """0.16 Dice over the flattened batch (squares below, smooth 1) + 0.04 BCE."""
    probs = mask_logits.sigmoid()
    dice = 1 - (2 * (probs * mask).sum() + 1) / (
        probs.square().sum() + mask.square().sum() + 1
    )
    return 0.16 * dice + 0.04 * F.binary_cross_entropy_with_logits(label_logits, label)


def weights_by_rule(path: str) -> dict[str, torch.Tensor]:
    """The golden files' weights: each array is made from its name alone."""
    with open(path) as file:
        golden = json.load(file)
    rule = golden.get("rule", {})
    gain = rule.get("gain", 2.0)
    bn, bn3 = rule.get("bn", (0.6, 1.2)), rule.get("bn3", (0.2, 0.5))
    weights = {}
    for name, shape in golden["params"]:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("running_var"):
            array = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 4:
            array = rng.normal(0, math.sqrt(gain / math.prod(shape[1:])), shape)
        elif "bayar" in name:
            array = rng.uniform(0.1, 1, shape)
        elif name.endswith("weight"):
            low_high = bn3 if "bn3." in name and "layer" in name else bn
            array = rng.uniform(*low_high, shape)
        else:
            array = rng.normal(0, 0.1, shape)
        weights[name] = torch.tensor(array.astype(np.float32))
    return weights


def main(path: str):
    """Prints how far outputs, loss and gradients lie from the reference's."""
    weights = weights_by_rule(f"{path}.json")
    golden = np.load(f"{path}.npz")
    network = Sdfl()
    missing = network.load_state_dict(weights, strict=False).missing_keys
    missing = [name for name in missing if "num_batches_tracked" not in name]
    if missing:
        sys.exit(f"Not in {path}.json: {missing}")

    def report(name, ours, theirs):
        difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
        print(f"{name:20} {difference:.1e} of the largest value")

    image = torch.tensor(golden["image"].transpose(0, 3, 1, 2).copy())
    mask = torch.tensor(golden["mask"].transpose(0, 3, 1, 2).copy())
    label = torch.tensor(golden["label"])
    for mode in ("eval", "train"):
        network.train(mode == "train")
        mask_logits, label_logits = network(image)
        ours = mask_logits.detach().numpy().transpose(0, 2, 3, 1)
        report(f"{mode} mask logits", ours, golden[f"{mode}_mask_logits"])
        ours = label_logits.detach().numpy()
        report(f"{mode} label logits", ours, golden[f"{mode}_label_logits"].ravel())
    total = loss(mask_logits, label_logits, mask, label)
    report("loss", total.detach().numpy(), golden["loss"])
    total.backward()
    with open(f"{path}.json") as file:
        names = json.load(file)["grad_norm_names"]
    parameters = dict(network.named_parameters())
    pairs = [
        (parameters[name].grad.norm().item(), float(norm))
        for name, norm in zip(names, golden["grad_norms"], strict=True)
        if not (name.startswith("convs.") and name.endswith("bias"))  # only rounding
    ]
    worst = max(abs(ours - theirs) / theirs for ours, theirs in pairs)
    print(f"{len(pairs)} gradient norms: at most {worst:.1e} of each apart")


if __name__ == "__main__":
    main(*sys.argv[1:])
