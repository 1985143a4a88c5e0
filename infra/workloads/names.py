"""Names of what runs in the cluster, for those who look for it there."""

TRACKING, TRACKING_PORT = "tracking", 5000  # namespace, Service and ServiceAccount of the MLflow server
TRACKING_USERS = ("train", "release")
