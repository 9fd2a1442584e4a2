"""The nouns every room uses: types, streams, components, configuration, noise, errors. Imports no other room."""
