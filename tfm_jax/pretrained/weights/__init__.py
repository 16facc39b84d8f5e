"""Weight files (safetensors, PyTorch, msgpack), read tensor by tensor and mapped to parameters."""
