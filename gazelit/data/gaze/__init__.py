"""Gaze from samples to fixations, and from fixations to density."""
