"""Other people's runs as our tables: one file a format, one rule for a cell."""
