"""Builds archives of Hub models, folders and checkpoints."""
