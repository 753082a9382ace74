"""States of a training on disk, what identifies them, and their model card."""
