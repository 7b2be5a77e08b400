"""`python -m router.cli`: the same commands where the script is not on the path."""

from router.cli import main

if __name__ == "__main__":
    main(prog_name="bandit-router")
