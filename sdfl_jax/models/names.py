"""How the files of other people name a network's arrays: plain data of its module."""

import dataclasses

Rules = tuple[tuple[str, str], ...]  # regular expressions and what replaces a match

# What classifies in an encoder's file, by whatever trained it.
HEADS = ("fc.", "_fc.", "classifier.", "last_linear.", "head.")


@dataclasses.dataclass(frozen=True)
class TorchNames:
    """PyTorch's names of one encoder or network, which it declares as `torch_names`.

    An encoder's rules see names without the part of a network that it serves as; a
    network's take what belongs to its parts to "encoder/...", where the part's own
    rules go on.

    to_path     from a PyTorch name to a path here: every rule in turn. What is left,
                as "weight" for a kernel or a scale, is done for all networks alike
    to_torch    the way back, slashes between all parts of the name
    unused      how names begin that files hold and no result here depends on
    unused_ends likewise, how names end
    classifier  what a file calls the dense layer of its classes
    joined      (first, second, whole): arrays under a name with `first` in it are
                stacked on those with `second` along the outputs, and called `whole`
    """

    to_path: Rules = ()
    to_torch: Rules = ()
    unused: tuple[str, ...] = ()
    unused_ends: tuple[str, ...] = ()
    classifier: str = "fc"
    joined: tuple[tuple[str, str, str], ...] = ()
