"""What a running server serves: swap, drain, readiness, stop, and what a restart begins with."""
