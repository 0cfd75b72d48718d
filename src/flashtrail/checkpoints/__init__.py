"""Finds, classifies, fetches and converts public checkpoints into artifacts."""
