"""FLASHTrail: evidence for real-time robot policies. The package holds everything that deserves a test;
the workflow (Snakefile, rules/, scripts/) only calls it."""

__version__ = "0.1.0"
