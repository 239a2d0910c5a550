"""The shared feature front end: the image and text features that every method uses, fitted on the training split."""
