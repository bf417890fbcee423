"""The reference network, its options, and its weights for other libraries."""
