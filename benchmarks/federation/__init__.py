"""Federations side by side: clinode, NVFLARE, Flower, and the floors that no program goes below."""
