"""The counting engine: a network and an image in, class counts of every block out."""
