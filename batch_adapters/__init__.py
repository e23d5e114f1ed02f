"""Spark Python data sources for pulls from databases. They need nothing of the service around them."""
