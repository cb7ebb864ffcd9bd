"""What became of images, and every figure, file and picture that is made of it."""
