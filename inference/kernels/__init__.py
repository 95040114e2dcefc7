"""Kernels of this project's own, and the oracle that they are compared with."""
