"""What every room may use: errors, provenance, jobs, names of files."""
