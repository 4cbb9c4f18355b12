"""From one conversation to tensors; used alike by training, evaluation, chat and export."""
