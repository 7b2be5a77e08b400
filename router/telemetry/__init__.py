"""What the router tells about itself: the catalogue of its metrics, how they are counted and travel, and traces."""
