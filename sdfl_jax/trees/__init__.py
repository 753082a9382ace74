"""Parameters by name: patterns, and matching of two trees."""
