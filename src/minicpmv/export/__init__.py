"""What a trained model is turned into for others: merged weights in the released layout."""
