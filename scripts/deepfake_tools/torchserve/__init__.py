"""TorchServe's two APIs: calls, answers, tokens, and a server of one's own."""
