"""What the pages that commands write have in common."""
