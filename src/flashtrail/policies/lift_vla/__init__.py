"""A small vision-language-action policy: ResNet18, text, cross-attention, a transformer decoder over action queries."""
