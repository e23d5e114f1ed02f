"""How fast it is, beside hand-written code, as ratios in one run. Not tests: run them with ``make bench``."""
