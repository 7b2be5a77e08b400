"""Prices of models, from a YAML file of one's own: providers change them, so none are built in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from router.llm.evaluate.errors import EvaluationError
from router.llm.models import Price


def load_prices(path: Path) -> dict[str, Price]:
    """Read `MODEL: {input_usd: 1.0, output_usd: 5.0}`, US dollars for a million tokens. Raises EvaluationError.

    A model is named as in the experiment, or as provider:model.
    """
    try:
        found = yaml.safe_load(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise EvaluationError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not found:
        raise EvaluationError(f"{path}: must map models to prices: MODEL: {{input_usd: 1.0, output_usd: 5.0}}")
    return {str(model): _price(path, str(model), price) for model, price in found.items()}


def price_of(model_name: str, prices: Mapping[str, Price]) -> Price | None:
    """Return the price of "provider:model", which may be listed with its provider or without; None if it is not."""
    return prices.get(model_name) or prices.get(model_name.partition(":")[2])


def _price(path: Path, model: str, price: Any) -> Price:
    if not isinstance(price, dict) or set(price) != {"input_usd", "output_usd"}:
        raise EvaluationError(f"{path}: {model}: must have input_usd and output_usd, dollars for a million tokens")
    for name, value in price.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < math.inf:
            raise EvaluationError(f"{path}: {model}.{name} is {value!r}: it must be a number of 0 or more")
    return Price(float(price["input_usd"]), float(price["output_usd"]))
