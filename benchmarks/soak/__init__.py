"""The soak: a router under load, faults one after another, and books that must balance after each.

`stage` runs the service and its Postgres, `load` calls it and keeps a ledger of what was answered, `books` compares the
ledger with Postgres, `faults` breaks things and says what was promised meanwhile. The crash tests are short runs of the
same faults.
"""
