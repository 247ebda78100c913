"""The report of 2020: its GANs, and what is found of them here."""
