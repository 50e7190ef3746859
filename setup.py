"""Says what to do instead of `pip install .`: the scripts run from this folder."""

raise SystemExit(
    "error: this is a collection of scripts, not a package. Run `pip install -r requirements.txt`, "
    "then the scripts from this folder, such as `python detect_multi_backend.py --help` (README.md)"
)
