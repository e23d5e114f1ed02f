"""What the service promises, tried: a seeded workload, faults, and an oracle that knows nothing but the inputs."""
