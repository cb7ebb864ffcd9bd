"""How fast a detector is: archives and their rivals in, measured side by side."""
