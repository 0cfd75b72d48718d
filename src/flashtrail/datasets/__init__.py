"""Sets of demonstrations in the form of others: LeRobot sets written by replaying episodes, and read to train on."""
