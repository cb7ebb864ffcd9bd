"""Labelled images in, a head out that was judged on others."""
