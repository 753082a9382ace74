"""What networks of the field are trained on, to be compared: two protocols.

Both begin with shards of the original files, one folder for each set:

    sdfl data layouts casia2 --root=data/CASIA2 --out=lists/casia2   # and others
    sdfl data build --paths_file=lists/casia2/paths_train.csv --out=shards/casia2

CASIA v2 alone ("MVSS protocol") takes all of it in every epoch. The CAT protocol takes
as many from each of several sets. As IMDLBenCo counts them these are seven, 1840 of
each: CASIA v2, FantasticReality, IMD2020 and the four parts of tampCOCO. CAT-Net's own
list has ten, 1869 of each, with the authentic images of CASIA v2 and FantasticReality
as sets of their own (shards of a list's authentic lines) and compRAISE.
"""

_TAMPCOCO = ("tampcoco_cm", "tampcoco_sp", "tampcoco_bcm", "tampcoco_bcmc")
CAT = ("casia2", "fantastic_reality", "imd2020", *_TAMPCOCO)
CATNET = (
    *("fantastic_reality", "fantastic_reality_auth", "imd2020"),
    *("casia2", "casia2_auth", *_TAMPCOCO, "compraise"),
)
CASIA2 = 12_614  # images of CASIA v2, 5,123 of them manipulated


def cosine(config, examples: int, *, epochs: int, warmup: int):
    """A cosine over so many epochs of `examples`, the first of them a warm-up."""
    config.total_epochs = epochs
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = warmup * (examples // config.batch_size)


def mixed(names: tuple[str, ...], count: int) -> str:
    """`config.data.train` of so many from each set."""
    return ",".join(f"{name}=shards/{name}:{count}" for name in names)


def cat(config):
    """The CAT protocol as IMDLBenCo counts it; returns the examples of an epoch."""
    config.data.train = mixed(CAT, 1840)
    config.data.val = "shards/val"
    return 1840 * len(CAT)


def casia2(config):
    """CASIA v2 alone; returns the examples of an epoch."""
    config.data.train = "shards/casia2"
    config.data.val = "shards/val"
    config.data.balance = False
    return CASIA2


def catnet(config):
    """CAT-Net's own list; returns the examples of an epoch."""
    config.data.train = mixed(CATNET, 1869)
    config.data.val = "shards/val"
    return 1869 * len(CATNET)


def dinov3_iml(protocol, encoder: str, rank: int):
    """DINOv3-IML's recipe: 100 epochs, 5 of warm-up, batches of 480 in 10 parts."""
    from sdfl_jax.config import of_network

    settings = dict(encoder=encoder, lora_rank=rank, lora_alpha=2.0 * rank)
    config = of_network("vit_lora", **settings)
    examples = protocol(config)
    config.batch_size, config.accumulate_steps = 480, 10
    cosine(config, examples, epochs=100, warmup=5)
    config.optimizer.lr = 3e-4
    config.optimizer.weight_decay = 0.05
    config.precision = "auto"
    config.save_frozen = False
    return config
