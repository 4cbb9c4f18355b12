"""States what a run optimises, as functions of log-probabilities. It knows no data and no training."""
