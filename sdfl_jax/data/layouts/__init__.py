"""Data sets by name: how each lies on disk becomes lists of images.

A data set is one function in a file of its family and one line in `LAYOUTS`.
"""

from sdfl_jax.data.layouts.benchmarks import columbia, coverage, nist16
from sdfl_jax.data.layouts.casia import casia1, casia2
from sdfl_jax.data.layouts.faces import faceforensics
from sdfl_jax.data.layouts.field import (
    autosplice,
    cocoglide,
    compraise,
    dso1,
    fantastic_reality,
    grip,
    imd2020,
    korus,
    misd,
    opensdi,
    tampcoco,
)
from sdfl_jax.data.layouts.folders import (
    celebahq_inpainting,
    cifake,
    faces140k,
    real_fake_folders,
)
from sdfl_jax.data.layouts.given import imdlbenco_json, imdlbenco_mani, paths_file

LAYOUTS = {
    "casia2": casia2,
    "casia1": casia1,
    "columbia": columbia,
    "coverage": coverage,
    "nist16": nist16,
    "imd2020": imd2020,
    "fantastic_reality": fantastic_reality,
    "tampcoco": tampcoco,
    "compraise": compraise,
    "dso1": dso1,
    "cocoglide": cocoglide,
    "opensdi": opensdi,
    "autosplice": autosplice,
    "korus": korus,
    "misd": misd,
    "grip": grip,
    "faceforensics": faceforensics,
    "cifake": cifake,
    "celebahq_inpainting": celebahq_inpainting,
    "faces140k": faces140k,
    "real_fake_folders": real_fake_folders,
    "paths_file": paths_file,
    "imdlbenco_json": imdlbenco_json,
    "imdlbenco_mani": imdlbenco_mani,
}

# Sets that are too small to train on; the field only tests on them.
TEST_SETS = ("casia1", "columbia", "coverage", "nist16")
TEST_SETS += ("dso1", "cocoglide", "autosplice", "korus", "misd", "grip")

# Forms that are no data set's own, and the sets that a layout has met as they are
# published; the others were written from descriptions and met made-up trees alone.
FORMS = ("real_fake_folders", "paths_file", "imdlbenco_json", "imdlbenco_mani")
TRIED = ("misd",)

# Of authentic and of manipulated images where they differ; deep sets are the others.
DEEP = "6:2:2/5:2:3"
STUDY = {"casia2": "8:1:1"} | dict.fromkeys(TEST_SETS, "0:0:1")
