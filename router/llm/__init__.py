"""Model calls: drop-in clients that route, shadow traffic, judges and offline evaluation.

Only here are model SDKs imported, and only where one is used.
"""
