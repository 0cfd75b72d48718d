"""The scripted expert, its demonstrations and the small policy pi0_nano with its draft."""
