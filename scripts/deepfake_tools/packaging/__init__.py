"""Hub names, folders and checkpoints in, archives out."""
