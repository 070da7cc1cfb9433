"""What WAU did, looked at afterwards: for the scripts in ``tools/analysis_tools``."""
