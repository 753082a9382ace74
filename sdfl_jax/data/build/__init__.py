"""Lists of images become shards."""
