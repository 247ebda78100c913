"""The privacy core in training loops of other projects."""
