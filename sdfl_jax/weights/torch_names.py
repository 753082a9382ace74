"""Where a network here keeps an array that PyTorch knows by a name."""

import re

# The blocks of the reference's decoder: their convolution is 0, their batch norm is 1.
_BLOCKS = r"ppm_conv\.\d|ppm_last_conv|fpn_in\.\d|fpn_out\.0\.0|cls_head\.0|seg_head\.0"

# Of a whole network that puts a classifier on an encoder: what is not the one belongs
# to the other.
_CLASSIFIER = (
    (r"^(?:fc|_fc|classifier|last_linear|head\.fc)\.", "fc/"),
    (r"^(?!fc/)", "encoder/"),
)

# From a PyTorch name to a path in a network's variables: every rule in turn, first
# those that a network has for itself.
NETWORKS = {
    "mvssnet": (
        (r"^model\.", "encoder/"),
        (r"^noise_extractor\.model\.", "noise_encoder/"),
        (r"^constrain_conv\.", "bayar_conv/"),
        (r"^erb_db_(\d)\.", r"edge/in\1/"),
        (r"^erb_trans_(\d)\.", r"edge/out\1/"),
        (r"^sobel_([xy])(\d)\.0\.weight$", r"batch_stats/edge/sobel\2/\1"),
        (r"^sobel_([xy])(\d)\.1\.", r"edge/sobel\2/\1_bn/"),
        (r"^head\.(conv_\w\d)\.0\.", r"head/\1/conv/"),
        (r"^head\.(conv_\w\d)\.1\.", r"head/\1/bn/"),
        (r"^head\.([pc]am)\.", r"head/\1/"),
        (r"^head\.out\.1\.", "head/out/"),
        (r"\b(bn|conv_[bcd])\.", r"\1/"),
    ),
    "classifier": _CLASSIFIER,
    "densenet121": _CLASSIFIER,
    "resnet50": _CLASSIFIER,
    "xception": _CLASSIFIER,
}
RULES = (
    (rf"^decoder\.({_BLOCKS})\.0\.", r"decoder.\1/conv/"),
    (rf"^decoder\.({_BLOCKS})\.1\.", r"decoder.\1/bn/"),
    (r"^decoder\.ppm_conv\.(\d)/", r"decoder/pyramid\1/"),
    (r"^decoder\.ppm_last_conv/", "decoder/pyramid_out/"),
    (r"^decoder\.fpn_in\.(\d)/", r"decoder/lateral\1/"),
    (r"^decoder\.fpn_out\.0\.0/", "decoder/finest_out/"),
    (r"^decoder\.cls_head\.0/", "label_head/block/"),
    (r"^decoder\.cls_head\.2\.", "label_head/out/"),
    (r"^decoder\.seg_head\.0/", "mask_head/block/"),
    (r"^decoder\.seg_head\.1\.", "mask_head/out/"),
    (r"^convs\.(\d)\.", r"fusion\1/"),
    (r"^(encoder|noise_encoder|bayar_conv)\.", r"\1/"),
    # Before the ResNets' own "downsample": ConvNeXt of timm.
    (r"\bstages\.(\d)\.downsample\.([01])\.", r"down\1_\2/"),
    # ResNets of CSAIL and torchvision: layer1.0.downsample.1.bias, conv1.weight
    (r"\blayer(\d)\.(\d+)\.", r"layer\1_\2/"),
    (r"\bdownsample\.0\.", "downsample_conv/"),
    (r"\bdownsample\.1\.", "downsample_bn/"),
    # DenseNet of torchvision, whose older files have norm.1 for norm1:
    # features.denseblock1.denselayer1.norm1.weight, features.transition1.conv.weight
    (r"\bfeatures\.denseblock(\d)\.denselayer(\d+)\.", r"block\1_\2/"),
    (r"\bfeatures\.transition(\d)\.(conv|norm)\.", r"transition\1/\2/"),
    (r"\bfeatures\.(conv|norm)(\d)\.", r"\1\2/"),
    # Xception of timm: block1.rep.0.pointwise.weight, block1.skipbn.bias
    (r"\bblock(\d+)\.rep\.(\d)\.", r"block\1/rep\2/"),
    (r"\bblock(\d+)\.(skip|skipbn)\.", r"block\1/\2/"),
    (r"\bpointwise\.", "pointwise/"),
    (r"\b(conv|bn|norm)\.?(\d)\.", r"\1\2/"),
    # ConvNeXt of torchvision: features.0.1.bias, features.3.2.block.5.weight
    *((rf"\bfeatures\.{2 * i + 1}\.(\d)\.", rf"stage{i}_\1/") for i in range(4)),
    *((rf"\bfeatures\.{2 * i}\.([01])\.", rf"down{i}_\1/") for i in range(4)),
    (r"/block\.0\.", "/depthwise/"),
    (r"/block\.2\.", "/norm/"),
    (r"/block\.3\.", "/expand/"),
    (r"/block\.5\.", "/project/"),
    # ... and of timm: stem.0.weight, stages.1.blocks.2.mlp.fc1.bias
    (r"\bstem\.([01])\.", r"down0_\1/"),
    (r"\bstages\.(\d)\.blocks\.(\d)\.", r"stage\1_\2/"),
    (r"/conv_dw\.", "/depthwise/"),
    (r"/norm\.", "/norm/"),
    (r"/mlp\.fc1\.", "/expand/"),
    (r"/mlp\.fc2\.", "/project/"),
    (r"/gamma$", "/layer_scale"),
    # efficientnet_pytorch: _blocks.0._depthwise_conv.weight, _bn0.bias
    (r"\b_blocks\.(\d+)\.", r"block\1/"),
    (r"\b_([a-z]+_conv|conv_stem|bn\d)\.", r"\1/"),
    (r"\brunning_(mean|var)$", r"\1"),
)


def path_of(name: str, ndim: int, network: str = "") -> str:
    """The place in params or batch_stats of an array with `ndim` axes.

    `network` is one of MODELS for the names of a whole network, "" for those of an
    encoder by itself.
    """
    path = name
    for pattern, replacement in (*NETWORKS.get(network, ()), *RULES):
        path = re.sub(pattern, replacement, path)
    leaf = "scale" if ndim == 1 else "kernel"
    path = re.sub(r"/weight$", f"/{leaf}", path)
    if path.startswith("batch_stats/"):
        return path
    return ("batch_stats/" if re.search(r"/(mean|var)$", path) else "params/") + path


# The way back, for the names that the reference and torchvision, efficientnet_pytorch
# and (Xception) timm write; slashes become dots in the end.
_NETWORKS_BACK = {
    "mvssnet": (
        (r"^encoder/", "model/"),
        (r"^noise_encoder/", "noise_extractor/model/"),
        (r"^bayar_conv/", "constrain_conv/"),
        (r"^edge/in(\d)/", r"erb_db_\1/"),
        (r"^edge/out(\d)/", r"erb_trans_\1/"),
        (r"^edge/sobel(\d)/([xy])$", r"sobel_\2\1/0/weight"),
        (r"^edge/sobel(\d)/([xy])_bn/", r"sobel_\2\1/1/"),
        (r"^head/(conv_\w\d)/conv/", r"head/\1/0/"),
        (r"^head/(conv_\w\d)/bn/", r"head/\1/1/"),
        (r"^head/out/", "head/out/1/"),
    ),
    "classifier": ((r"^encoder/", ""),),
    "densenet121": ((r"^encoder/", ""), (r"^fc/", "classifier/")),
    "resnet50": ((r"^encoder/", ""),),
    "xception": ((r"^encoder/", ""),),
}
_RULES_BACK = (
    (r"^decoder/pyramid(\d)/", r"decoder/ppm_conv/\1/"),
    (r"^decoder/pyramid_out/", "decoder/ppm_last_conv/"),
    (r"^decoder/lateral(\d)/", r"decoder/fpn_in/\1/"),
    (r"^decoder/finest_out/", "decoder/fpn_out/0/0/"),
    (r"^label_head/block/", "decoder/cls_head/0/"),
    (r"^label_head/out/", "decoder/cls_head/2/"),
    (r"^mask_head/block/", "decoder/seg_head/0/"),
    (r"^mask_head/out/", "decoder/seg_head/1/"),
    (r"^(decoder/.*)/conv/", r"\1/0/"),
    (r"^(decoder/.*)/bn/", r"\1/1/"),
    (r"^fusion(\d)/", r"convs/\1/"),
    (r"\blayer(\d)_(\d+)/", r"layer\1/\2/"),
    (r"\bdownsample_conv/", "downsample/0/"),
    (r"\bdownsample_bn/", "downsample/1/"),
    (r"\bblock(\d)_(\d+)/", r"features/denseblock\1/denselayer\2/"),
    (r"\btransition(\d)/", r"features/transition\1/"),
    (r"(^|coder/)(conv0|norm0|norm5)/", r"\1features/\2/"),
    (r"\bblock(\d+)/rep(\d)/", r"block\1/rep/\2/"),
    *((rf"\bstage{i}_(\d+)/", rf"features/{2 * i + 1}/\1/") for i in range(4)),
    *((rf"\bdown{i}_(\d)/", rf"features/{2 * i}/\1/") for i in range(4)),
    (r"(features/\d/\d+)/depthwise/", r"\1/block/0/"),
    (r"(features/\d/\d+)/norm/", r"\1/block/2/"),
    (r"(features/\d/\d+)/expand/", r"\1/block/3/"),
    (r"(features/\d/\d+)/project/", r"\1/block/5/"),
    (r"\bblock(\d+)/(\w+_conv|bn\d)/", r"_blocks/\1/_\2/"),
    (r"(^|coder/)(conv_stem|bn0)/", r"\1_\2/"),
    (r"(?<!bayar_conv)(?<!constrain_conv)/(kernel|scale)$", "/weight"),
    (r"/(mean|var)$", r"/running_\1"),
)


def name_of(path: str, ndim: int, network: str = "") -> str:
    """The name that `path_of` takes to `path`; `path` itself where there is none.

    `ndim` counts the axes of PyTorch's array.
    """
    name = path.partition("/")[2]
    for pattern, replacement in (*_NETWORKS_BACK.get(network, ()), *_RULES_BACK):
        name = re.sub(pattern, replacement, name)
    name = name.replace("/", ".")
    return name if path_of(name, ndim, network) == path else path
