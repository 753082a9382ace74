"""Our examples as a data set of TensorFlow Datasets."""
