"""The search space: its syntax in params.yaml, its domains, its checks. Open domains.py first."""
