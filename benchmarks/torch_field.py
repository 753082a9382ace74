"""The field's larger networks in PyTorch, for `benchmarks/torch_networks.py`.

Their parameters bear the names of the published files, so that one set of weights can
be put into both sides (`docs/published_networks.md`, `tests/test_torch_field.py`). Each
returns mask logits and label logits.
"""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_sdfl import resize


def of_mask(mask_logits):
    """Mask logits with their highest as the label's."""
    return mask_logits, mask_logits.amax((1, 2, 3))


def normalised(image):
    """By ImageNet's mean and deviation."""
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    mean, std = (image.new_tensor(x)[:, None, None] for x in (mean, std))
    return (image - mean) / std


def timm_network(name: str, **settings) -> nn.Module:
    import timm  # not at the top: see `torch_networks`

    return timm.create_model(name, num_classes=0, **settings)


def named(network: nn.Module, **parts: nn.Module) -> nn.Module:
    """Adds parts whose names an attribute cannot spell out."""
    for name, part in parts.items():
        network.add_module(name, part)
    return network


class Lora(nn.Module):
    """A frozen dense layer and a low-rank product beside it."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.layer, self.scale = layer.requires_grad_(False), alpha / rank
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.layer(x) + self.scale * self.up(self.down(x))


class VitLora(nn.Module):
    """timm's DINOv3 ViT, frozen, with adapters of its attention and a head."""

    def __init__(self, rank: int = 32, alpha: float = 64.0):
        super().__init__()
        self.backbone = timm_network("vit_small_patch16_dinov3", dynamic_img_size=True)
        self.backbone.requires_grad_(False)
        for block in self.backbone.blocks:
            block.attn.qkv = Lora(block.attn.qkv, rank, alpha)
        C = self.backbone.embed_dim
        self.seg_head = nn.Sequential(
            *(nn.Conv2d(C, C // 2, 3, padding=1), nn.BatchNorm2d(C // 2), nn.ReLU()),
            *(nn.Conv2d(C // 2, C // 4, 3, padding=1), nn.BatchNorm2d(C // 4)),
            *(nn.ReLU(), nn.Conv2d(C // 4, 1, 1)),
        )

    def forward(self, image):
        x = self.backbone.forward_features(normalised(image))
        x = x[:, self.backbone.num_prefix_tokens :].transpose(1, 2)
        h, w = (n // 16 for n in image.shape[2:])
        return of_mask(resize(self.seg_head(x.unflatten(2, (h, w))), image.shape[2:]))


class DropPath(nn.Module):
    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if not (self.training and self.rate):
            return x
        kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class MitAttention(nn.Module):
    def __init__(self, width: int, heads: int, reduction: int):
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, width)

    def forward(self, x, size):
        B, N, C = x.shape
        heads = lambda x: x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        q = heads(self.q(x))
        if self.reduction > 1:
            x = self.sr(x.transpose(1, 2).unflatten(2, size))
            x = self.norm(x.flatten(2).transpose(1, 2))
        k, v = self.kv(x).chunk(2, -1)
        y = F.scaled_dot_product_attention(q, heads(k), heads(v))
        return self.proj(y.transpose(1, 2).reshape(B, N, C))


class MitMlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        hidden = 4 * width
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.dwconv = named(nn.Module(), dwconv=conv)

    def forward(self, x, size):
        x = self.fc1(x).transpose(1, 2).unflatten(2, size)
        return self.fc2(F.gelu(self.dwconv.dwconv(x).flatten(2).transpose(1, 2)))


class MitBlock(nn.Module):
    def __init__(self, width: int, heads: int, reduction: int, rate: float):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = MitAttention(width, heads, reduction)
        self.mlp, self.drop = MitMlp(width), DropPath(rate)

    def forward(self, x, size):
        x = x + self.drop(self.attn(self.norm1(x), size))
        return x + self.drop(self.mlp(self.norm2(x), size))


class PatchEmbed(nn.Module):
    def __init__(self, inputs: int, width: int, kernel: int, stride: int, bias=True):
        super().__init__()
        self.proj = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, bias=bias)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), x.shape[2:]


class Mit(nn.Module):
    """A mix transformer; `prefix` stands before its stages' names."""

    WIDTHS = (64, 128, 320, 512)

    def __init__(self, depths, inputs=3, *, prefix="", stem_bias=True, drop_path=0.1):
        super().__init__()
        self.prefix, rates = prefix, torch.linspace(0, drop_path, sum(depths)).tolist()
        for i, (depth, width) in enumerate(zip(depths, self.WIDTHS, strict=True)):
            kernel, stride, bias = (3, 2, True) if i else (7, 4, stem_bias)
            heads, reduction = (1, 2, 5, 8)[i], (8, 4, 2, 1)[i]
            rates_, rates = rates[:depth], rates[depth:]
            blocks = [MitBlock(width, heads, reduction, rate) for rate in rates_]
            parts = {
                "patch_embed": PatchEmbed(inputs, width, kernel, stride, bias),
                "block": nn.ModuleList(blocks),
                "norm": nn.LayerNorm(width, eps=1e-6),
            }
            named(self, **{f"{prefix}{name}{i + 1}": p for name, p in parts.items()})
            inputs = width

    def stage(self, i: int, x):
        part = lambda name: getattr(self, f"{self.prefix}{name}{i + 1}")
        x, size = part("patch_embed")(x)
        for block in part("block"):
            x = block(x, size)
        return part("norm")(x).transpose(1, 2).unflatten(2, size)

    def forward(self, x):
        maps = []
        for i in range(4):
            x = self.stage(i, x)
            maps.append(x)
        return maps


def cosine_rows(size: int, count: int):
    """The first rows of the orthonormal cosine transform."""
    k, n = torch.arange(count)[:, None], torch.arange(size)[None]
    rows = (2 / size) ** 0.5 * torch.cos(torch.pi * k * (2 * n + 1) / (2 * size))
    rows[:1] = (1 / size) ** 0.5
    return rows


def frequency_images(x):
    """`sdfl_jax.models.mesorch.frequency_images`."""
    low = [cosine_rows(n, int(0.05 * n)).to(x) for n in x.shape[2:]]
    below = [cosine_rows(n, n - int(0.95 * n)).to(x) for n in x.shape[2:]]
    along_rows = lambda a, x: a.T @ (a @ x)
    along_columns = lambda a, x: (x @ a.T) @ a
    high = x - along_columns(low[1], along_rows(low[0], x))
    of_rows = along_rows(below[0], x)
    low = of_rows + along_columns(below[1], x - of_rows)
    scaled = []
    for y in (high, low):
        first, last = y.amin((1, 2, 3), True), y.amax((1, 2, 3), True)
        scaled.append((y - first) / (last - first))
    return scaled


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mesorch(nn.Module):
    def __init__(self):
        super().__init__()
        self.convnext = timm_network("convnext_tiny", in_chans=6)
        self.segformer = Mit((3, 4, 18, 3), 6)
        # Without a bias on the six channels, as the authors widened both stems.
        self.convnext.stem[0] = nn.Conv2d(6, 96, 4, 4, bias=False)
        self.segformer.patch_embed1.proj = nn.Conv2d(6, 64, 7, 4, 3, bias=False)
        self.upsample, masks = nn.Module(), []
        for letter, widths in (("c", (96, 192, 384, 768)), ("s", Mit.WIDTHS)):
            masks += [
                nn.Conv2d(width if not i else widths[0], 1, 1)
                for i, width in enumerate(widths)
            ]
            for i in range(1, 4):
                steps = zip(widths[i:0:-1], widths[i - 1 :: -1], strict=True)
                ups = [nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in steps]
                up = nn.Sequential(*ups) if i > 1 else ups[0]
                named(self.upsample, **{f"upsample{letter}{i + 1}": up})
        self.inverse = nn.ModuleList(masks)
        self.gate = nn.Module()
        self.gate.conv1 = nn.Conv2d(9, 192, 7, 2, 3)
        self.gate.invert = nn.Sequential(
            *(LayerNorm2d(192, eps=1e-6), nn.Conv2d(192, 192, 3, 1, 1)),
            *(nn.Conv2d(192, 768, 1), nn.Conv2d(768, 192, 1)),
        )
        self.gate.conv2 = nn.Conv2d(192, 8, 7, 2, 3)

    def forward(self, image):
        x = normalised(image)
        high, low = frequency_images(x)
        y, masks = self.convnext.stem(torch.cat([x, high], 1)), []
        for i, stage in enumerate(self.convnext.stages):
            y = stage(y)
            up = getattr(self.upsample, f"upsamplec{i + 1}") if i else nn.Identity()
            masks.append(self.inverse[i](up(y)))
        for i, y in enumerate(self.segformer(torch.cat([x, low], 1))):
            up = getattr(self.upsample, f"upsamples{i + 1}") if i else nn.Identity()
            masks.append(self.inverse[4 + i](up(y)))
        g = self.gate.conv1(torch.cat([x, high, low], 1))
        g = self.gate.conv2(g + F.gelu(self.gate.invert(g))).softmax(1)
        logits = (g * torch.cat(masks, 1)).sum(1, keepdim=True)
        size = x.shape[2:]
        return of_mask(F.interpolate(logits, size, mode="bilinear", align_corners=True))


def norm(width: int, momentum: float = 0.01):
    return nn.BatchNorm2d(width, momentum=momentum)


def step(inputs, outputs, kernel=3, stride=1, *, relu=True, bias=False, dilation=1):
    pad = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, pad, dilation, bias=bias)
    return nn.Sequential(conv, norm(outputs), *([nn.ReLU()] if relu else []))


class HrBlock(nn.Module):
    """ResNet's: two 3x3 convolutions, or a bottleneck of three."""

    def __init__(self, inputs: int, width: int, *, bottleneck: bool = False):
        super().__init__()
        kernels, outputs = (1, 3, 1) if bottleneck else (3, 3), width
        outputs = 4 * width if bottleneck else width
        widths = [inputs, *[width] * (len(kernels) - 1), outputs]
        for i, kernel in enumerate(kernels, 1):
            conv = nn.Conv2d(
                widths[i - 1], widths[i], kernel, padding=kernel // 2, bias=False
            )
            named(self, **{f"conv{i}": conv, f"bn{i}": norm(widths[i])})
        self.count, self.downsample = len(kernels), nn.Identity()
        if inputs != outputs:
            self.downsample = step(inputs, outputs, 1, relu=False)

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y if i == self.count else y.relu()
        return (y + self.downsample(x)).relu()


class HrModule(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(HrBlock(width, width) for _ in range(4)))
            for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._between(j, i, widths) for j in range(len(widths)))
            for i in range(len(widths))
        )

    @staticmethod
    def _between(j: int, i: int, widths) -> nn.Module:
        """From map `j` to the width, and where that is smaller the size, of map `i`."""
        if j == i:
            return nn.Identity()
        if j > i:
            return step(widths[j], widths[i], 1, relu=False)
        same = [step(widths[j], widths[j], 3, 2) for _ in range(i - j - 1)]
        return nn.Sequential(*same, step(widths[j], widths[i], 3, 2, relu=False))

    def forward(self, maps):
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [
            sum(
                resize(fuse(x), maps[i].shape[2:])
                for fuse, x in zip(row, maps, strict=True)
            ).relu()
            for i, row in enumerate(self.fuse_layers)
        ]


class CatNet(nn.Module):
    """Takes the coefficients and their table beside the image."""

    @staticmethod
    def random_inputs(size: int, side: int) -> list[torch.Tensor]:
        coefficients = torch.randint(0, 9, (size, side, side), dtype=torch.int16)
        return [coefficients, torch.randint(1, 9, (size, 8, 8)).float()]

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn1, self.bn2 = norm(64), norm(64)
        blocks = [HrBlock(n, 64, bottleneck=True) for n in (64, 256, 256, 256)]
        self.layer1 = nn.Sequential(*blocks)
        new = lambda i, o: nn.Sequential(step(i, o, 3, 2))
        self.transition1 = nn.ModuleList([step(256, 48), new(256, 96)])
        self.transition2 = nn.ModuleList([*[nn.Identity()] * 2, new(96, 192)])
        self.transition3 = nn.ModuleList([*[nn.Identity()] * 3, new(192, 384)])
        stage = lambda count, widths: nn.ModuleList(
            HrModule(widths) for _ in range(count)
        )
        self.stage2, self.stage3 = stage(1, (48, 96)), stage(4, (48, 96, 192))
        self.stage4 = stage(3, (48, 96, 192, 384))
        self.dc_layer0_dil = step(21, 64, bias=True, dilation=8)
        self.dc_layer1_tail = step(64, 4, 1)
        self.dc_layer2 = nn.Sequential(*(HrBlock(n, 96) for n in (512, 96, 96, 96)))
        self.dc_transition2 = nn.ModuleList([nn.Identity(), new(96, 192)])
        self.dc_transition3 = nn.ModuleList([*[nn.Identity()] * 2, new(192, 384)])
        self.dc_stage3, self.dc_stage4 = stage(3, (96, 192)), stage(2, (96, 192, 384))
        widths = (24, 48, 96, 192)
        joined = zip((48, 192, 384, 768), widths, strict=True)
        self.transition4 = nn.ModuleList(step(i, o) for i, o in joined)
        self.stage5 = stage(1, widths)
        last = step(sum(widths), sum(widths), 1, bias=True)
        self.last_layer = nn.Sequential(*last, nn.Conv2d(sum(widths), 2, 1))

    def forward(self, image, dct, qtable):
        x = 2 * image - 1
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        x = self.layer1(x)
        maps = [transition(x) for transition in self.transition1]
        for i, stage in ((1, self.stage2), (2, self.stage3), (3, self.stage4)):
            if i > 1:
                maps.append(getattr(self, f"transition{i}")[i](maps[-1]))
            for module in stage:
                maps = module(maps)
        told = [self.coefficients(dct, qtable)]
        for i, stage in ((2, self.dc_stage3), (3, self.dc_stage4)):
            told.append(getattr(self, f"dc_transition{i}")[i - 1](told[-1]))
            for module in stage:
                told = module(told)
        joined = [torch.cat(pair, 1) for pair in zip(maps[1:], told, strict=True)]
        maps = [
            transition(x)
            for transition, x in zip(self.transition4, [maps[0], *joined], strict=True)
        ]
        for module in self.stage5:
            maps = module(maps)
        x = torch.cat([resize(x, maps[0].shape[2:]) for x in maps], 1)
        x = self.last_layer(x)
        return of_mask(resize(x[:, 1:] - x[:, :1], image.shape[2:]))

    def coefficients(self, dct, qtable):
        x = F.one_hot(dct.long().abs().clamp(max=20), 21).permute(0, 3, 1, 2).float()
        x = self.dc_layer1_tail(self.dc_layer0_dil(x))
        B, C, H, W = x.shape
        x = x.view(B, C, H // 8, 8, W // 8, 8).permute(0, 1, 3, 5, 2, 4)
        both = torch.cat([x, x * qtable[:, None, :, :, None, None]], 1)
        return self.dc_layer2(both.reshape(B, 2 * C * 64, H // 8, W // 8))


class Rectify(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.channel_weights, self.spatial_weights = nn.Module(), nn.Module()
        self.channel_weights.mlp = nn.Sequential(
            nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 2 * width)
        )
        self.spatial_weights.mlp = nn.Sequential(
            nn.Conv2d(2 * width, width, 1), nn.ReLU(), nn.Conv2d(width, 2, 1)
        )

    def forward(self, x, e):
        both = torch.cat([x, e], 1)
        pooled = torch.cat([both.mean((2, 3)), both.amax((2, 3))], 1)
        weights = self.channel_weights.mlp(pooled).sigmoid()[..., None, None]
        of_e, of_x = weights.chunk(2, 1)
        s = self.spatial_weights.mlp(both).sigmoid()
        return x + 0.5 * (of_x + s[:, 1:]) * e, e + 0.5 * (of_e + s[:, :1]) * x


class Cross(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.cross_attn = heads, nn.Module()
        for i in (1, 2):
            parts = {
                f"channel_proj{i}": nn.Linear(width, 2 * width),
                f"end_proj{i}": nn.Linear(2 * width, width),
                f"norm{i}": nn.LayerNorm(width),
            }
            named(self, **parts)
            kv = nn.Linear(width, 2 * width, bias=False)
            named(self.cross_attn, **{f"kv{i}": kv})

    def forward(self, *maps):
        B, N, C = maps[0].shape
        split = lambda x: x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        kept, asks, contexts = [], [], []
        for i, x in enumerate(maps, 1):
            y, u = getattr(self, f"channel_proj{i}")(x).relu().chunk(2, -1)
            k, v = map(split, getattr(self.cross_attn, f"kv{i}")(u).chunk(2, -1))
            context = k.transpose(2, 3) @ v * (C // self.heads) ** -0.5
            contexts.append(context.softmax(-2))
            kept.append(y)
            asks.append(split(u))
        outputs = []
        for i, x in enumerate(maps, 1):
            found = (asks[i - 1] @ contexts[2 - i]).transpose(1, 2).reshape(B, N, C)
            y = x + getattr(self, f"end_proj{i}")(torch.cat([kept[i - 1], found], -1))
            outputs.append(getattr(self, f"norm{i}")(y))
        return outputs


class Fuse(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.cross, self.channel_emb = Cross(width, heads), nn.Module()
        self.channel_emb.residual = nn.Conv2d(2 * width, width, 1, bias=False)
        self.channel_emb.channel_embed = nn.Sequential(
            *(nn.Conv2d(2 * width, width, 1),),
            *(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU()),
            *(nn.Conv2d(width, width, 1), norm(width, 0.1)),
        )
        self.channel_emb.norm = norm(width, 0.1)

    def forward(self, x, e):
        flat = [y.flatten(2).transpose(1, 2) for y in (x, e)]
        both = (
            torch.cat(self.cross(*flat), -1).transpose(1, 2).unflatten(2, x.shape[2:])
        )
        mix = self.channel_emb
        return mix.norm(mix.residual(both) + mix.channel_embed(both))


class Cmx(nn.Module):
    def __init__(self, depths=(3, 4, 6, 3)):
        super().__init__()
        pixels, noise = Mit(depths), Mit(depths, prefix="extra_")
        for branch in (pixels, noise):
            named(self, **dict(branch.named_children()))
        # Their parts are this module's; that they are not registered twice:
        self._branches = [pixels, noise]
        heads = (1, 2, 5, 8)
        self.FRMs = nn.ModuleList(Rectify(width) for width in Mit.WIDTHS)
        fuses = zip(Mit.WIDTHS, heads, strict=True)
        self.FFMs = nn.ModuleList(Fuse(width, n) for width, n in fuses)

    def forward(self, x, e):
        maps = []
        for i in range(4):
            x, e = (b.stage(i, y) for b, y in zip(self._branches, (x, e), strict=True))
            x, e = self.FRMs[i](x, e)
            maps.append(self.FFMs[i](x, e))
        return maps


class MlpDecoder(nn.Module):
    def __init__(self, width: int, classes: int):
        super().__init__()
        for i, inputs in enumerate(Mit.WIDTHS, 1):
            layer = named(nn.Module(), proj=nn.Linear(inputs, width))
            named(self, **{f"linear_c{i}": layer})
        self.linear_fuse = nn.Sequential(
            nn.Conv2d(4 * width, width, 1), nn.BatchNorm2d(width, eps=1e-3), nn.ReLU()
        )
        self.dropout = nn.Dropout2d(0.1)
        self.linear_pred = nn.Conv2d(width, classes, 1)

    def forward(self, maps):
        made = []
        for i, x in reversed(list(enumerate(maps, 1))):
            y = getattr(self, f"linear_c{i}").proj(x.flatten(2).transpose(1, 2))
            y = y.transpose(1, 2).unflatten(2, x.shape[2:])
            made.append(resize(y, maps[0].shape[2:]))
        return self.linear_pred(self.dropout(self.linear_fuse(torch.cat(made, 1))))


class TruFor(nn.Module):
    """In its second phase, which trains the encoder and the mask's decoder."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
        for _ in range(15):
            layers += [nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)]
            layers.append(nn.ReLU())
        self.dncnn = nn.Sequential(*layers, nn.Conv2d(64, 1, 3, padding=1))
        self.backbone = Cmx()
        self.decode_head = MlpDecoder(512, 2)
        self.decode_head_conf = MlpDecoder(512, 1)
        self.detection = nn.Sequential(
            nn.Linear(8, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 1)
        )

    def train(self, mode: bool = True):
        super().train(mode)
        for part in (self.dncnn, self.decode_head_conf, self.detection):
            part.train(False).requires_grad_(False)
        return self

    def forward(self, image):
        with torch.no_grad():
            noise = self.dncnn(image)
        maps = self.backbone(normalised(image), noise.repeat(1, 3, 1, 1))
        anomaly = resize(self.decode_head(maps), image.shape[2:])
        mask_logits = anomaly[:, 1:] - anomaly[:, :1]
        with torch.no_grad():
            confidence = resize(self.decode_head_conf(maps), image.shape[2:]).flatten(1)
            flat = mask_logits.flatten(1)
            found = [
                weighted_pooling(confidence, torch.zeros_like(confidence)),
                weighted_pooling(flat, F.logsigmoid(confidence)),
            ]
            score = self.detection(torch.cat(found, 1))[:, 0]
        return mask_logits, score


def weighted_pooling(x, log_weights):
    log_w = log_weights.log_softmax(1)
    w = log_w.exp()
    found = [-(log_w - x).logsumexp(1), (log_w + x).logsumexp(1)]
    return torch.stack([*found, (w * x).sum(1), (w * x**2).sum(1)], 1)
