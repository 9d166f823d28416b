"""Where features go: the layouts of feature files.

``hloc``
    one HDF5 file for many pictures, as hloc reads and writes it
``npz``
    one file for each picture, as the published extraction script writes it
``opencv``
    no file: OpenCV's keypoints and the calls of its features
"""
