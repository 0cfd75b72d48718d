"""What every simulator on robosuite and MuJoCo shares: rendering, and the shortcuts that change no bit."""
