"""The embedded stack: a broker, the real data that is replayed, and the demo that runs on them."""
