"""Scores a network or saved masks: the command, its options and its report."""
