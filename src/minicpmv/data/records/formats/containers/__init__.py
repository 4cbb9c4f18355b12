"""Opens one kind of file in each module, and yields the records in it as they are written."""
