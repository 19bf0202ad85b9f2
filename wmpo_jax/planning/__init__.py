"""What a config needs of hardware that is not here."""
