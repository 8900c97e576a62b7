"""Other people's files: checked, told apart, put together."""
