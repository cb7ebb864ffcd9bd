"""Published detectors' checkpoints: a file in, an encoder and a head out, or why not."""
