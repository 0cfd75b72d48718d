"""robosuite's Lift: a cube on a table, several robots."""
