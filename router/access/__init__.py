"""Who may do what: API keys and their roles, the table of required roles, limits per key."""
