"""Made-up conversations: facts told, changed and asked for, between talk about other things."""
