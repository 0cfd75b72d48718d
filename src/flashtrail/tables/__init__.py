"""Schemas, merge, keys, links of the tables."""
