"""The prepared store: what a source becomes, film by film, and how it is read back."""
