"""Learning on prepared arrays: data, networks, training, evaluation and inference.

Submodules are imported one by one: :mod:`federation.learning.prepared` needs numpy and
safetensors only, the others load torch.
"""
