"""A test kit: a cluster of your app for one test."""
