"""The statistics and decision rules of bandit-router: pure functions of their arguments."""
