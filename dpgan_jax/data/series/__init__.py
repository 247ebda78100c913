"""Series: records of several channels over a public grid of times, with static columns."""
