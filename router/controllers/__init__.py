"""Work that one process of a deployment does for all of them."""
