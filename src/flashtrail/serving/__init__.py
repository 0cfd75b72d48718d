"""The policy server and its client on the official wire; knows no model internals and imports no torch."""

TOKEN_VARIABLE = "FLASHTRAIL_TOKEN"  # environment variable with the token, for server and clients
