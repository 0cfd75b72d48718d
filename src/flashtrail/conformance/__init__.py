"""Checks this implementation against golden data computed by the official code: `python -m flashtrail.conformance DIR`.

DIR is laid out as tests/golden (its README explains every array). Each set has a module here; a set that is missing is
a failure, not a skip.
"""
