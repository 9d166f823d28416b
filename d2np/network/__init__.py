"""The network: layers over bands of rows, the pyramid of scales, and the detector.

:class:`d2np.Net` is in :mod:`d2np.network.net`.
"""
