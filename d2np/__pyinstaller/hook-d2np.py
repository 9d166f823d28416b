"""Name what PyInstaller cannot see in d2np: packaged files, and modules that are imported by name."""

from pathlib import Path

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, get_package_paths

parent, package = map(Path, get_package_paths("d2np"))

# The sources of the kernels tell whether compiled ones are out of date.
datas = collect_data_files("d2np") + collect_data_files("d2np.kernels", include_py_files=True)
if not (package / "weights" / "analytic.h5").exists():  # in a checkout
    datas += [(str(file), "d2np/weights") for file in (parent / "weights").glob("*.h5")]

hiddenimports = collect_submodules("d2np", filter=lambda name: "__pyinstaller" not in name)
