"""Kills commands at random moments and compares what the same command again ends in with an undisturbed run."""
