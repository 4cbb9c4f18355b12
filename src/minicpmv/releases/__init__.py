"""States how the released models differ, and reads from a directory which one it holds. It knows no torch."""
