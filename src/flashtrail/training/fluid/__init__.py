"""Trains policies of the family fluid, and their controls, from pi0_nano's demonstrations."""
