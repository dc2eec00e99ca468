"""What a checkpoint says of itself, and what another stage takes from it."""
