"""The shared feature front end: what every method is given, fitted on the training split only."""
