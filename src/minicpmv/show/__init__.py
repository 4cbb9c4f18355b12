"""Pages that show a person what the model sees."""
