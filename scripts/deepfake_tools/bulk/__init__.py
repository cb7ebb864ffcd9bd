"""Scores millions of images by an archive on Ray Data, from a laptop to a cluster."""
