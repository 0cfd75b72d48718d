"""The engine's Triton backend: kernels, their launchers, the stages made of them, CUDA graphs.

Importing this package imports no Triton; `available` says whether it would work.
"""
