"""Eight CPU devices for every test, and no silent broadcasting."""

import jax
from absl import flags

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# grain's worker processes read absl flags, which only `absl.app.run` would parse.
flags.FLAGS.mark_as_parsed()
