"""Where features go: the layouts of feature files.

``hloc``
    one HDF5 file for many pictures, as hloc reads and writes it
``hloc_matches``
    one HDF5 file for the matches of many pairs of pictures, as hloc reads and writes it
``colmap``
    a COLMAP database of features and matches
``npz``
    one file for each picture, as the published extraction script writes it
"""
