"""The page: a browser's view of the served models, over the client's way of asking."""
