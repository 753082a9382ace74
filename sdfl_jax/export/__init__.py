"""Networks for those who run no JAX: StableHLO, ONNX, a folder for the browser."""
