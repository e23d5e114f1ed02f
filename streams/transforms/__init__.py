"""One file a silver or gold table: DataFrame → DataFrame, no I/O."""

from streams.transforms.fact_orders import fact_orders
from streams.transforms.fx_rates import fx_rates
from streams.transforms.order_events import order_events

__all__ = ["fact_orders", "fx_rates", "order_events"]
