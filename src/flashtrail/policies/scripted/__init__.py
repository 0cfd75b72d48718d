"""Policies without weights, which see what any policy sees: the controls below which no success rate means anything."""
