"""Drills: silent failures of a policy's loop, on demand, and predicates that name them from a step log."""
