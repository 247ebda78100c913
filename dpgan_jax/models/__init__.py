"""What is trained: the GAN, the private classifier, what labels the samples; mathematics
without files.
"""
