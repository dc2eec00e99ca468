"""From files to batches: sources, gaze, heatmaps, the prepared store, the data module."""
