"""Audits the lists of a study: leakage between splits, labels, masks."""
