"""Takes the steps of a run, and decides at each whether it goes on. It knows no data files and no flags."""
