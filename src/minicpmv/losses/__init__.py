"""States the losses of compared answers, as functions of log-probabilities. It knows no data and no training."""
