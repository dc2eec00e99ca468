"""Handing a trained model on: exported graphs, packages with a model card, the Hugging Face Hub."""
