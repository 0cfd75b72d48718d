"""A point that has to reach a mark: no physics engine, no assets; the smallest simulator there can be."""
