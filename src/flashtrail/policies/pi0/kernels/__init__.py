"""The engine's Triton backend: kernels, their launchers, the stages made of them, CUDA graphs.

Importing this package imports no Triton; `backends.why_not_triton` says whether it would work.
"""
