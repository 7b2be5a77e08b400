"""The table of metrics in docs/observability.md, made from the catalogue: run this file to print it."""

from router.telemetry.catalogue import CATALOGUE

HEAD = "| Metric | Kind | Labels | Known to | Meaning |\n|---|---|---|---|---|"


def table() -> str:
    """Return the table."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.source}"
        f" | {metric.help} |".replace("|  |", "| |")
        for metric in CATALOGUE.values()
    ]
    return "\n".join((HEAD, *rows))


if __name__ == "__main__":
    print(table())
