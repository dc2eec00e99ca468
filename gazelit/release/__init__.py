"""Release of a trained model: exported graphs, packages with a model card, the Hugging Face Hub."""
