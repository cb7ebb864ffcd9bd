"""Reads published detectors' checkpoints: their encoder and their head."""
