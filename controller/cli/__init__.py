"""`retrainctl`: a thin client of the API, and the commands that need no daemon."""
