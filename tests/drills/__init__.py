"""What goes wrong in production, done on purpose to a server of this machine."""
