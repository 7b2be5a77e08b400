"""The command line: one module for each family of commands."""


def main(**options: object) -> None:
    """Run the command that the process was started for."""
    try:
        from router.cli.main import main as run
    except KeyboardInterrupt:
        # Loading takes a moment, in which nobody else would answer a Ctrl-C.
        raise SystemExit(130) from None
    run(**options)
