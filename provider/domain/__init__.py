"""The nouns of the product and its errors; imports nothing of ours."""
