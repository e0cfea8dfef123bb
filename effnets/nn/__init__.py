"""The networks as torch modules: layers, blocks, the classifier, the feature pyramid, and the builder of them all."""
