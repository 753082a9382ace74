"""Eight CPU devices for every test, and no silent broadcasting."""

import os
import tempfile

import jax
import pytest
from absl import flags

from sdfl_jax.data.setup import setup

# JAX_PLATFORMS=cuda serves the few tests that need a GPU and skip themselves here.
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS") or "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests compile much and compute little. What one test compiled serves the next, and
# with JAX_COMPILATION_CACHE_DIR=FOLDER the next run.
jax.config.update("jax_disable_most_optimizations", True)
if not jax.config.jax_compilation_cache_dir:
    # In the environment too, for the processes that pytest-xdist starts after this one.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="sdfl_jax_")
    jax.config.update(
        "jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"]
    )
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

# grain's worker processes read absl flags, which only `absl.app.run` would parse.
flags.FLAGS.mark_as_parsed()

# As every command and every worker does, so that no test depends on one before it.
setup()

# Where the code under test is ours alone, no type is promoted in silence. Everywhere
# else flax and optax mix integers and floats themselves, and the pooling asks for a
# promotion, which JAX would refuse as well.
STRICT = ("test_losses", "test_metrics", "test_conv", "test_planes")


@pytest.fixture(autouse=True)
def strict_types(request):
    name = request.module.__name__.rpartition(".")[2]
    how = "strict" if name in STRICT else "standard"
    with jax.numpy_dtype_promotion(how):
        yield
