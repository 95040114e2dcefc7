"""Rewrites of the exported graph: BatchNorm folded into HetConv2d, and HetConv2d into what an engine can run."""
