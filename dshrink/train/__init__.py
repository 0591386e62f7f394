"""Images, tuning and recalibration of networks in training form."""
