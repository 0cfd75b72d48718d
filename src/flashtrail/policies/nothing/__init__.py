"""A policy that holds still: the floor under every success rate, and the smallest family there can be."""
