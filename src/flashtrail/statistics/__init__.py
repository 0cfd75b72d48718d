"""Tests, intervals, power, resampling, numbers in words."""
