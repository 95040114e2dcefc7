"""The fused HetConv kernel for NVIDIA GPUs in Triton: planned (tiles), compiled ahead of time (aot), or launched."""
