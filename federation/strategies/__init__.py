"""How updates are joined: pure functions on memory-mapped tensors."""
