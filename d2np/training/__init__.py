"""Train the last convolution by D2-Net's loss, in plain NumPy: the published ``train.py`` without a framework."""
