"""A synthetic cohort in the real formats."""
