"""What a worker is fed with: which images, read and augmented, in which order."""
