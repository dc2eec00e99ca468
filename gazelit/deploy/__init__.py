"""Trained models applied to films."""
