"""A bundle goes in, a smaller or faster bundle comes out."""
