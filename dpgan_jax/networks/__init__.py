"""Architectures: generators, discriminators, layers, fixed features. They know of no privacy."""
