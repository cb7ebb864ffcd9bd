"""Deciding: real images that bound false alarms, scored -> the decision that goes onto a card."""
