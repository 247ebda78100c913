"""How useful samples are."""
