"""A network behind Triton Inference Server: the model repository that is deployed, and what starts a server with it."""
