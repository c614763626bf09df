"""Ready-made statements for fields of use: monitors of hidden layers."""
