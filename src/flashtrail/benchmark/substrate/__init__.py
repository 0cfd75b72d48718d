"""The reaction-diffusion core apart from any robot: on digits, volumes and a 2D pick and place."""
