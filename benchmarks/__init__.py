"""What the package costs, beside what people use today: ``python -m benchmarks``."""
