"""Films from files or memory, as pixels at the working resolution."""
