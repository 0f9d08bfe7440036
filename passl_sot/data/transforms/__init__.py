"""What is done to images and batches on their way to the model."""
