"""Other engines run what this package writes, and are compared with it: `sh test.sh -m engines`."""
