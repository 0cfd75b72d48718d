"""Summaries, claims and verdicts."""
