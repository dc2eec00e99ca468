"""Trained models at work on files."""
