"""What a model is made of: backbones, ONNX graphs, quantisation, the Keras process, the classifier."""
