"""What runs on the device inside a step or an epoch: plain functions of tensors."""
