"""Timing of the engine on random inputs, set against the bytes and FLOPs its dims demand; needs no simulator."""
