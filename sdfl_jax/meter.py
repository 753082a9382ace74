"""What one sees of a run while it goes on."""

import time

from tqdm import tqdm

from sdfl_jax.errors import InputError
from sdfl_jax.report import Log

# A batch now and then may overflow; a run whose every batch does has diverged.
MOST_SKIPPED_IN_ROW = 10


class Meter:
    """Progress bar and log, read one step late so that the device never waits."""

    def __init__(self, log: Log, config, total_steps: int, step: int):
        self._log = log
        self._config = config
        self._pending = None
        self._waited = 0.0
        self._since = time.perf_counter()
        self._bar = tqdm(
            total=total_steps, initial=step, unit="step", dynamic_ncols=True
        )

    def wait_for(self, batches) -> dict:
        """The next batch; the time it took counts as waiting for data."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def after_step(self, step: int, scalars: dict):
        """Shows the step before, which is done by now."""
        self.flush()
        self._pending = step, scalars

    def flush(self):
        """Waits for the step under way and shows it."""
        if self._pending is None:
            return
        (step, scalars), self._pending = self._pending, None
        scalars = {name: float(value) for name, value in scalars.items()}
        self._bar.update()
        rate = self._bar.format_dict["rate"] or 0.0
        self._bar.set_postfix_str(
            f"{rate * self._config.batch_size:.1f} images/s, "
            f"loss {scalars['loss']:.4f}",
            refresh=False,
        )
        if scalars["skipped_in_row"] >= MOST_SKIPPED_IN_ROW:
            raise InputError(
                f"Step {step}: the loss or its gradient was not finite "
                f"{MOST_SKIPPED_IN_ROW} times in a row (no such step was applied); try "
                "a smaller config.optimizer.lr or config.optimizer.clip=5."
            )
        if step % self._config.log_every == 0:
            now = time.perf_counter()
            scalars["wait_share"] = self._waited / (now - self._since)
            self._waited, self._since = 0.0, now
            self._log.write(step, scalars)

    def close(self):
        self.flush()
        self._bar.close()
