"""Case files for photographs: separate lines of evidence, a cautious verdict, a log."""
