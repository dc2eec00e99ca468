"""Kills commands at random moments, gives them again, and compares the results with those of undisturbed runs."""
