"""pandas, which only the zoo's tables need, or a clear refusal where it is not installed."""

from lightning_gengap.errors import ConfigurationError

try:
    import pandas as pd
except ModuleNotFoundError:
    raise ConfigurationError(
        "zoo",
        got="no pandas",
        expected="pandas, which tables are read with",
        remedy='`pip install "lightning-gengap[zoo]"`.',
    ) from None

__all__ = ["pd"]
