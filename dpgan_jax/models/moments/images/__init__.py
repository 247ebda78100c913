"""Images: frequencies and features whose moments are released, and generators that match them."""
