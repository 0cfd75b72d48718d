"""The record of a run: bundled, audited and replayed by somebody who was not there."""
