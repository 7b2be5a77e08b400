"""Evidence that the statistics are right: what our code does in simulations, beside published and independent values."""
