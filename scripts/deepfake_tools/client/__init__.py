"""Asking about images: collecting, asking again, many at once, and a journal of the answers."""
