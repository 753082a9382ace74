"""Around the training loop: experiment, validation, progress, lock, preemption."""
