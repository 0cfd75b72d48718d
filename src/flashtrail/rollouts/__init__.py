"""LIBERO episodes under conditions and guards; knows a policy only by its protocol."""
