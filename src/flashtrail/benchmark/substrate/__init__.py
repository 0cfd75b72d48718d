"""The reaction-diffusion core apart from any robot: on digits, still and moving, and on synthetic volumes."""
