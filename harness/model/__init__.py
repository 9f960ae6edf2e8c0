"""The GPT, its loss, its initial and its saved weights, and text generation."""
