"""The daily run as an Airflow DAG. Imports nothing of this package: Airflow has an environment of its own."""
