"""Checks every annotation of the package while tests run, shapes included.

pytest --jaxtyping-packages=sdfl_jax,tests.check
"""

import beartype

# A whole number serves where a float is asked for, as PEP 484 has it.
check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
