"""The data of training, and its order."""
