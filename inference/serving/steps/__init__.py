"""What runs inside Triton's Python backend. These files are copied into the repository, so they import nothing of ours:
NumPy, Pillow and ONNX Runtime have to be where the server's Python finds them."""
