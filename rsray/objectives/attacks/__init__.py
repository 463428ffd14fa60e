"""Adversarial examples, and what objectives that train on them share."""
