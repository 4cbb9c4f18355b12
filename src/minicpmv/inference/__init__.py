"""Opens a model or adapter and has it answer one question or a file of them. It knows no training and no metric."""
