"""A policy without attention: a reaction-diffusion field over picture patches, and its controls (cnn, vit, no PDE)."""
