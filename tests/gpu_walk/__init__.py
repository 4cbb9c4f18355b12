"""The GPU path, walked on a machine without a GPU: the model's real code on tensors that claim to be CUDA's."""
