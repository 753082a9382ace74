"""Examples made ahead of the reader: in threads, or in processes of their own."""

import collections
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from sdfl_jax.data.setup import setup
from sdfl_jax.data.workers import end_with_parent


def in_order(function: Callable[[int], object], count: int, workers: int) -> Iterator:
    """What `function` gives for 0, 1, ... up to `count`, of which some wait ready.

    Grain, and orbax with it, takes as long to load as a small image's answer, so
    threads do without it.
    """
    if workers:
        import grain

        yield from prefetch(grain.MapDataset.range(count).map(function), workers)
        return
    number, waiting = _threads(workers), collections.deque()
    with ThreadPoolExecutor(number) as threads:
        try:
            for index in range(count):
                if len(waiting) == number:
                    yield waiting.popleft().result()
                waiting.append(threads.submit(function, index))
            while waiting:
                yield waiting.popleft().result()
        finally:  # of a reader that has seen enough
            for one in waiting:
                one.cancel()


def prefetch(dataset, workers: int) -> Iterator:
    """A `grain.MapDataset`, in threads or in `workers` processes with threads."""
    import grain
    from absl import flags

    threads = _threads(workers)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    ahead = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # only `absl.app.run` parses them
            flags.FLAGS.mark_as_parsed()
        _let_tracker_be_silent()
        ahead = ahead.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), _start_worker
        )
    return iter(ahead)


def _let_tracker_be_silent():
    """Keeps the process that watches over shared memory from its warning.

    It removes what workers had fetched ahead when a run ends, as it should; what it
    says of it looks like a failure. It is started with the environment of then.
    """
    silence = "ignore:resource_tracker:UserWarning"
    filters = os.environ.get("PYTHONWARNINGS", "").split(",")
    if silence not in filters:
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [*filters, silence]))


def _start_worker(worker: int, workers: int):
    setup()
    end_with_parent()


def _threads(workers: int) -> int:
    return min(16, max(2, (os.cpu_count() or 1) // max(1, workers)))
