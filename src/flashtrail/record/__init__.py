"""The record of a run: bundled, audited, explained and replayed."""
