"""Finds, classifies, fetches and converts public checkpoints into artifacts; knows no simulator and no socket."""
