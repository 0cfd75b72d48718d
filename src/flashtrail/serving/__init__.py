"""The policy server and its client on the official wire; knows no model internals and imports no torch."""
