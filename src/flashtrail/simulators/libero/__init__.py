"""LIBERO, through robosuite and MuJoCo."""
