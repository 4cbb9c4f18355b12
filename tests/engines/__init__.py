"""Other engines and tools run on what this package writes, in environments of their own: `sh test.sh -m engines`."""
