"""Train the last convolution by D2-Net's loss: the published ``train.py`` in plain NumPy."""
