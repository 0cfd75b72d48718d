"""The experiment as its user types it, checked."""
