//! Run OCI images as microVMs that start from snapshots in milliseconds.
