"""The ground: names, checks, sealed files, statistics, compilation. Knows no network, no learning.

What stands here imports nothing of jaxmec above it, and but for `compilation` no JAX.
"""
