"""Tables, statistics, claims and figures; reads Parquet only."""
