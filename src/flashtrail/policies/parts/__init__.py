"""What trained families share: files of an artifact, statistics, words, pictures, errors. Knows no family."""
