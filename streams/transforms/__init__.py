"""One file a silver or gold table: DataFrame → DataFrame, no I/O."""

from streams.transforms.accounts import accounts
from streams.transforms.behavior import behavior
from streams.transforms.contacts import contacts
from streams.transforms.customers import customers
from streams.transforms.dim_customer import dim_customer
from streams.transforms.dim_product import dim_product
from streams.transforms.fact_orders import fact_orders
from streams.transforms.fx_rates import fx_rates
from streams.transforms.opportunities import opportunities
from streams.transforms.order_events import order_events
from streams.transforms.orders import orders
from streams.transforms.products import products

__all__ = [
    "accounts",
    "behavior",
    "contacts",
    "customers",
    "dim_customer",
    "dim_product",
    "fact_orders",
    "fx_rates",
    "opportunities",
    "order_events",
    "orders",
    "products",
]
