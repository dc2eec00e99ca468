"""The prepared store: how it is made from a source, film by film, and how it is read."""
