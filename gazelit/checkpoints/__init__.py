"""The stamps of checkpoints, and the hand-over of their components to other stages."""
