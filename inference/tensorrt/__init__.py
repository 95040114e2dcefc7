"""TensorRT and TensorRT-RTX: engines built, described in a file beside each, and run."""
