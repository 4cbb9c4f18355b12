"""Plans from lengths which records share a batch. It knows no torch, and opens no record."""
