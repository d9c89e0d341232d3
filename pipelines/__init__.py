"""What happens at night: Prefect flows, and the plain steps that they are made of."""
