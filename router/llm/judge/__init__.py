"""A judge at work: what it is asked, how it is asked, and what becomes of a run that is cut off."""
